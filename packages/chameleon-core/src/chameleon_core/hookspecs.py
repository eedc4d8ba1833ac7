"""The hooks of this package. A plugin implements them with ``hookimpl`` and is found by an entry point in the group
``chameleon_core``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pluggy

from chameleon_backends.plugins import PluginSpec

PROJECT = "chameleon_core"

HOOK_API_VERSION = 2
"""Every spec states the version that it was written for. It changes only when plugins must change."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class CheckpointFormatSpec(PluginSpec, frozen=True, kw_only=True):
    """A checkpoint format and how to know its folders.

    ``matches(folder)`` looks at the names of the files and doesn't raise; ``marks`` says in words what it looks for.
    """

    matches: Callable[[Path], bool] | str
    marks: str


@hookspec
def chameleon_core_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:  # type: ignore[empty-body]
    """Formats of checkpoints on disk. ``factory()`` makes a ``CheckpointFormat``."""


@hookspec
def chameleon_core_pretrained() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Named models. ``factory()`` returns the folder with the model's checkpoint, a ``str`` or a ``Path``."""
