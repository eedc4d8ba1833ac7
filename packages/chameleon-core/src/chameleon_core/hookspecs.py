"""The hooks of this package.

A plugin implements them with ``hookimpl`` and is found by an entry point in the group ``chameleon_core``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pluggy

from chameleon_backends.plugin_calls import described, wrong
from chameleon_backends.plugins import PluginSpec

PROJECT = "chameleon_core"

HOOK_API_VERSION = 2
"""The version of the hooks, which every spec states. It changes only when plugins must change."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class CheckpointFormatSpec(PluginSpec, frozen=True, kw_only=True):
    """A checkpoint format and how to recognize its folders."""

    matches: Callable[[Path], bool] | str
    """Returns whether a folder has this format, by the names of its files. It raises nothing."""
    marks: str
    """What ``matches`` looks for, in words, for error messages."""

    def recognizes(self, folder: Path) -> bool:
        """Return whether a folder has this format. Raises ``BrokenPluginError`` for whatever ``matches`` does wrong."""
        found = self.call("matches", folder)
        if not isinstance(found, bool):
            wrong(self.called, f"{described(found)} from matches; expected True or False.")
        return found


@hookspec
def chameleon_core_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:  # type: ignore[empty-body]
    """Return formats of checkpoints on disk. ``factory()`` makes a ``CheckpointFormat``."""


@hookspec
def chameleon_core_pretrained() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return named models. ``factory()`` returns the folder of the checkpoint, a ``str`` or a ``Path``."""
