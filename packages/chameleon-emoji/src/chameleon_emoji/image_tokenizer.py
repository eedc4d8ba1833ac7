"""The plugin of chameleon-vq, apart from the package so that only chameleon-vq imports it.

It makes ``ImageTokenizer.from_pretrained("emoji")`` work.
"""

from __future__ import annotations

from pathlib import Path

from chameleon_vq import PluginSpec, hookimpl

from . import MODEL


@hookimpl
def chameleon_vq_pretrained() -> list[PluginSpec]:
    """Return the image tokenizer of the embedded model."""
    summary = "emoji of 64×64 pixels, 64 codes of 4,096 each"
    return [PluginSpec(name="emoji", factory=_folder, api_version=2, summary=summary)]


def _folder() -> Path:
    return MODEL
