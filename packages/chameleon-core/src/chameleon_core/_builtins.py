"""What this package registers through its own hooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .config import CONFIG_FILE
from .hookspecs import HOOK_API_VERSION, CheckpointFormatSpec, hookimpl

if TYPE_CHECKING:
    from .formats import CheckpointFormat


@hookimpl
def chameleon_core_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:
    """The built-in formats."""
    return [
        CheckpointFormatSpec(
            name="hf",
            factory=_hf,
            api_version=HOOK_API_VERSION,
            summary="the reference's layout: config.json and model*.safetensors",
            matches=lambda folder: (folder / CONFIG_FILE).is_file(),
            marks=CONFIG_FILE,
        )
    ]


def _hf() -> CheckpointFormat:
    from .formats import HFFormat

    return HFFormat()
