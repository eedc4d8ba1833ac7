"""The built-in plugins of this package, registered through its own hooks like third-party ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .config import CONFIG_FILE
from .hookspecs import HOOK_API_VERSION, CheckpointFormatSpec, hookimpl


@hookimpl
def chameleon_core_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:
    """Return the built-in checkpoint formats."""
    return [
        CheckpointFormatSpec(
            name="hf",
            factory="chameleon_core.formats.hf:HFFormat",
            api_version=HOOK_API_VERSION,
            summary="the layout of transformers: config.json and model*.safetensors",
            matches=_has_config,
            marks=CONFIG_FILE,
        )
    ]


def _has_config(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()
