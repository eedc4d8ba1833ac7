"""The plugin of chameleon-core: ``Chameleon.from_pretrained("emoji")``. Nothing but chameleon-core imports it."""

from __future__ import annotations

from pathlib import Path

from chameleon_backends.plugins import PluginSpec
from chameleon_core import hookimpl

from . import MODEL


@hookimpl
def chameleon_core_pretrained() -> list[PluginSpec]:
    """The embedded model."""
    summary = "captions and draws emoji; 4 million parameters"
    return [PluginSpec(name="emoji", factory=_folder, api_version=2, summary=summary)]


def _folder() -> Path:
    return MODEL
