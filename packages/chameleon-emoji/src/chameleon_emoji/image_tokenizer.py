"""The plugin of chameleon-vq: ``ImageTokenizer.from_pretrained("emoji")``. Nothing but chameleon-vq imports it."""

from __future__ import annotations

from pathlib import Path

from chameleon_vq import PluginSpec, hookimpl

from . import MODEL


@hookimpl
def chameleon_vq_pretrained() -> list[PluginSpec]:
    """The image tokenizer of the embedded model."""
    summary = "emoji of 64×64 pixels, 64 codes of 4,096 each"
    return [PluginSpec(name="emoji", factory=_folder, api_version=2, summary=summary)]


def _folder() -> Path:
    return MODEL
