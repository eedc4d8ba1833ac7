"""The strategy that the options of generation ask for, by name, and the one that guesses nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

from chameleon_backends.plugin_calls import described, wrong
from chameleon_backends.plugins import PluginSpec

from ..._boundary import translates_errors
from ...errors import GenerationError
from ...plugin_options import check_options
from ...registry import DECODING_HOOK, REGISTRY
from ..options import GenerationOptions
from ..processors import Kind, RowView
from ..processors.links import called
from ..segment_kinds import PICTURE
from .contract import DecodingStrategy, Guesser
from .guessing import RowGuesser
from .search import Searcher
from .searching import RowSearcher

GUESSED_KINDS = frozenset({"text", PICTURE})
"""What strategies guess; the segments of codecs are decoded plainly."""


class Plain:
    """Guesses nothing: a pass for each id."""

    def start(self, row: RowView, /) -> None:
        """Return None."""


@translates_errors
def decoding_strategy(options: GenerationOptions) -> tuple[DecodingStrategy, PluginSpec]:
    """Return the strategy that the options ask for, and its spec.

    Raises ``UnknownPluginError`` where none has the name, ``BrokenPluginError`` where it can't be made,
    ``ConfigError`` where it doesn't have an option.
    """
    given = {"name": options.decoding} if isinstance(options.decoding, str) else dict(options.decoding)
    found = REGISTRY.find(DECODING_HOOK, given.pop("name"))
    check_options(found.spec, given, kind="decoding strategy", field="decoding")
    strategy = found.spec.make(**given)
    if not callable(getattr(strategy, "start", None)):
        wrong(found.spec.called, f"{described(strategy)} without a method start; see generation.DecodingStrategy.")
    return cast(DecodingStrategy, strategy), found.spec


@translates_errors
def row_decoding(
    view: RowView, kinds: Sequence[Kind], vocab_size: int
) -> tuple[dict[Kind, RowGuesser], RowSearcher | None]:
    """Return what guesses for a row, for each kind of choice for which its strategy guesses, and what searches for it.

    Raises as ``decoding_strategy`` does, and ``GenerationError`` where the strategy can't serve the row.
    """
    strategy, spec = decoding_strategy(view.options)
    guessers: dict[Kind, RowGuesser] = {}
    searcher: RowSearcher | None = None
    for kind in kinds:
        row = dataclasses.replace(view, kind=kind)
        reason = called(spec.called, "asked whether it supports a row", spec.why_unsupported, row)
        if reason is not None:
            raise GenerationError(f"{spec.called} can't be used here: {reason.rstrip('.')}.")
        started = called(spec.called, "starting a row", strategy.start, row) if kind in GUESSED_KINDS else None
        if started is None:
            continue
        if not callable(getattr(started, "extend", None)):
            _check_methods(started, ("guess", "observe"), "generation.Guesser", spec)
            guessers[kind] = RowGuesser(cast(Guesser, started), spec.called, vocab_size)
            continue
        _check_methods(started, ("extend", "results"), "generation.Searcher", spec)
        if len(kinds) > 1 or kind != "text":
            raise GenerationError(
                f"{spec.called} can't be used here: it searches texts, and modality={view.options.modality!r} draws "
                "pictures, too. Use modality='text', or another decoding."
            )
        if view.options.guidance_scale != 1:
            raise GenerationError(
                f"{spec.called} can't be used with guidance_scale={view.options.guidance_scale}: a search compares the "
                "model's own probabilities. Leave one of them out."
            )
        searcher = RowSearcher(cast(Searcher, started), spec.called)
    return guessers, searcher


def _check_methods(started: object, names: Sequence[str], contract: str, spec: PluginSpec) -> None:
    for name in names:
        if not callable(getattr(started, name, None)):
            wrong(spec.called, f"{described(started)} from start, without a method {name}; see {contract}.")
