"""The plugin of chameleon-core, apart from the package so that only chameleon-core imports it.

It makes ``Chameleon.from_pretrained("emoji")`` work.
"""

from __future__ import annotations

from pathlib import Path

from chameleon_backends.plugins import PluginSpec
from chameleon_core import hookimpl

from . import MODEL


@hookimpl
def chameleon_core_pretrained() -> list[PluginSpec]:
    """Return the embedded model."""
    summary = "captions and draws emoji; 4 million parameters"
    return [PluginSpec(name="emoji", factory=_folder, api_version=2, summary=summary)]


def _folder() -> Path:
    return MODEL
