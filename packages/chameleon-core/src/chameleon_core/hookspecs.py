"""The hooks of this package.

A plugin implements them with ``hookimpl`` and is found by an entry point in the group ``chameleon_core``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pluggy

from chameleon_backends.plugin_calls import described, wrong
from chameleon_backends.plugins import PluginSpec

from .errors import ConfigError

PROJECT = "chameleon_core"

HOOK_API_VERSION = 2
"""The version of the hooks, which every spec states. It changes only when plugins must change."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class CheckpointFormatSpec(PluginSpec, frozen=True, kw_only=True):
    """A checkpoint format and how to recognize its folders."""

    matches: Callable[[Path], bool] | str
    """Returns whether a folder has this format, by the names of its files; a ``*.gguf`` file may be given in a folder's
    place. It raises nothing."""
    marks: str
    """What ``matches`` looks for, in words, for error messages."""

    def recognizes(self, folder: Path) -> bool:
        """Return whether a folder has this format. Raises ``BrokenPluginError`` for whatever ``matches`` does wrong."""
        found = self.call("matches", folder)
        if not isinstance(found, bool):
            wrong(self.called, f"{described(found)} from matches; expected True or False.")
        return found


EVERY_KIND = "every"
"""What stands for all kinds of choices among those of a logits processor."""


class LogitsProcessorSpec(PluginSpec, frozen=True, kw_only=True):
    """A logits processor and which choices it is for."""

    kinds: frozenset[str] = frozenset({EVERY_KIND})
    """The choices whose logits it processes: "text", "image" (the codes of pictures), names of segment codecs, or
    "every", the default."""

    def __post_init__(self) -> None:
        kinds = frozenset((self.kinds,) if isinstance(self.kinds, str) else self.kinds)
        if not kinds or not all(isinstance(kind, str) and kind for kind in kinds):
            raise ConfigError(
                f"kinds of the logits processor {self.name!r} must be 'text', 'image', names of segment codecs or "
                f"'every'; got {self.kinds!r}."
            )
        msgspec.structs.force_setattr(self, "kinds", kinds)

    def is_for(self, kind: str) -> bool:
        """Return whether it processes the logits of a kind of choice."""
        return kind in self.kinds or EVERY_KIND in self.kinds


@hookspec
def chameleon_core_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:  # type: ignore[empty-body]
    """Return formats of checkpoints on disk. ``factory()`` makes a ``CheckpointFormat``."""


@hookspec
def chameleon_core_pretrained() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return named models. ``factory()`` returns the folder of the checkpoint, a ``str`` or a ``Path``."""


@hookspec
def chameleon_core_caches() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return caches of keys and values. ``factory(config: ChameleonConfig)`` makes a ``LaneCache``, without lanes."""


@hookspec
def chameleon_core_logits_processors() -> Iterable[LogitsProcessorSpec]:  # type: ignore[empty-body]
    """Return logits processors, which change what may come next and how likely it is.

    ``factory(**options)`` makes an object that keeps the contract of ``generation.LogitsProcessor``; its parameters
    are the processor's own options. ``unsupported(row: RowView)`` says why it can't serve a row.
    """


@hookspec
def chameleon_core_picture_grammars() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return picture grammars, which say how pictures are written as ids.

    ``factory(context, **options)`` makes a ``PictureGrammar`` from a ``GrammarContext`` and the options that a config
    gives; ``unsupported(context)`` is asked first.
    """


@hookspec
def chameleon_core_decoding() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return decoding strategies, which guess ids so that generation needs fewer passes, or search among several texts.

    ``factory(**options)`` makes an object that keeps the contract of ``generation.DecodingStrategy``; its parameters
    are the strategy's own options. ``unsupported(row: RowView)`` says why it can't serve a row.
    """
