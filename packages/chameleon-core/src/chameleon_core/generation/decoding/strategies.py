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
from .contract import DecodingStrategy
from .guessing import RowGuesser


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
def row_guessers(view: RowView, kinds: Sequence[Kind], vocab_size: int) -> dict[Kind, RowGuesser]:
    """Return what guesses for a row, for each kind of choice for which its strategy guesses.

    Raises as ``decoding_strategy`` does, and ``GenerationError`` where the strategy can't serve the row.
    """
    strategy, spec = decoding_strategy(view.options)
    guessers: dict[Kind, RowGuesser] = {}
    for kind in kinds:
        row = dataclasses.replace(view, kind=kind)
        reason = called(spec.called, "asked whether it supports a row", spec.why_unsupported, row)
        if reason is not None:
            raise GenerationError(f"{spec.called} can't be used here: {reason.rstrip('.')}.")
        guesser = called(spec.called, "starting a row", strategy.start, row)
        if guesser is None:
            continue
        for method in ("guess", "observe"):
            if not callable(getattr(guesser, method, None)):
                wrong(
                    spec.called, f"{described(guesser)} from start, without a method {method}; see generation.Guesser."
                )
        guessers[kind] = RowGuesser(guesser, spec.called, vocab_size)
    return guessers
