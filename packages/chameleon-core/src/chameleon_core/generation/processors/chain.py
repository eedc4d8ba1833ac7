"""Logits processors one after the other, and the chain that the options of generation ask for.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from torch import Tensor

from chameleon_backends.plugin_calls import described, wrong
from chameleon_backends.plugins import Registered

from ..._boundary import translates_errors
from ...hookspecs import LogitsProcessorSpec
from ...plugin_options import check_options
from ...registry import LOGITS_PROCESSORS_HOOK, REGISTRY
from ..options import GenerationOptions
from ..segment_kinds import Kind
from .contract import LogitsProcessor, RowView
from .links import Link, has_choices
from .requested import Requested, constraints, listed, sampling


class ProcessorChain:
    """Processors one after the other, as one: its state of a row is the tuple of theirs.

    Raises ``BrokenPluginError`` with a processor's name and distribution for whatever it raises or returns wrongly, and
    ``GenerationError`` with the row and the processor where one forbids every id.
    """

    def __init__(self, processors: Sequence[LogitsProcessor | Link]) -> None:
        self.links = tuple(
            each if isinstance(each, Link) else Link(each, f"the logits processor {type(each).__name__}")
            for each in processors
        )
        self._has_states = any(link.has_states for link in self.links)

    def __repr__(self) -> str:
        return f"ProcessorChain({', '.join(type(each.processor).__name__ for each in self.links)})"

    @translates_errors
    def start(self, row: RowView, /) -> tuple[Any, ...]:
        """Return the states of a row at the end of its prompt."""
        return tuple(link.start(row) for link in self.links)

    @translates_errors
    def advance(self, state: tuple[Any, ...], token_id: int, /) -> tuple[Any, ...]:
        """Return the states after one more id."""
        if not self._has_states:  # as mostly, and this runs for every row and id
            return state
        return tuple([link.advance(each, token_id) for link, each in zip(self.links, state, strict=True)])

    @translates_errors
    def process(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[Any, ...]], /) -> Tensor:
        """Return the logits after all processors, float32 [R, A]."""
        logits_RA = logits_RA.float()
        processed_RA = logits_RA
        for place, link in enumerate(self.links):
            processed_RA = link.process(processed_RA, ids_A, [state[place] for state in states])
        if self.links and not has_choices(processed_RA):
            self._find_fault(logits_RA, ids_A, states)
            self.links[-1].check(processed_RA)  # where a plugin answered better when it was asked again
        return processed_RA

    def _find_fault(self, logits_RA: Tensor, ids_A: Tensor, states: Sequence[tuple[Any, ...]]) -> None:
        """Raise the error of the first processor after which a row has no choice."""
        for place, link in enumerate(self.links):
            logits_RA = link.process(logits_RA, ids_A, [state[place] for state in states])
            link.check(logits_RA)


@dataclass(frozen=True, slots=True, eq=False)
class ExtraProcessors:
    """Processors of requests that are made together, besides those that their options name."""

    inner: tuple[LogitsProcessor, ...] = ()
    """Those that run after ``logits_processors``, before the temperature and truncation."""
    last: tuple[LogitsProcessor, ...] = ()
    """Those that run after all others."""
    chains: dict[Any, ProcessorChain] = field(default_factory=dict)
    """The chains with these processors, by what else is in them."""


@translates_errors
def processor_chain(options: GenerationOptions, kind: Kind, extra: ExtraProcessors | None = None) -> ProcessorChain:
    """Return the chain of the processors that the options ask for, in the order that ``GenerationOptions`` states.

    The same processors, ``extra`` ones included, are the same chain, so that rows with like options can be processed
    in one call. Raises ``UnknownPluginError`` where no processor has a name, ``BrokenPluginError`` where one can't be
    made, ``ConfigError`` where it doesn't have an option.
    """
    before = tuple(map(_key, constraints(options, kind)))
    named = tuple(key for key in map(_key, listed(options)) if _spec(key).is_for(kind))
    after = tuple(map(_key, sampling(options, kind)))
    if extra is None:
        return _chain(before + named + after)
    key = (before + named, after)
    if key not in extra.chains:
        links = [*map(_link, before + named), *extra.inner, *map(_link, after), *extra.last]
        extra.chains[key] = ProcessorChain(links)
    return extra.chains[key]


@translates_errors
def make_processor(name: str, **options: Any) -> LogitsProcessor:
    """Return the logits processor called ``name``, made with its own options.

    Raises as ``processor_chain`` does.
    """
    return _made(REGISTRY.find(LOGITS_PROCESSORS_HOOK, name), options)


_Key = tuple[Registered, bytes]
"""A processor's spec and its options in JSON, which can be compared and hashed."""


def _key(requested: Requested) -> _Key:
    name, options = requested
    return REGISTRY.find(LOGITS_PROCESSORS_HOOK, name), msgspec.json.encode(options, order="deterministic")


def _spec(key: _Key) -> LogitsProcessorSpec:
    return cast(LogitsProcessorSpec, key[0].spec)


@functools.lru_cache(maxsize=256)
def _chain(keys: tuple[_Key, ...]) -> ProcessorChain:
    return ProcessorChain([_link(key) for key in keys])


def _link(key: _Key) -> Link:
    found, options = key
    return Link(
        _made(found, msgspec.json.decode(options)),
        found.spec.called,
        unsupported=found.spec.why_unsupported,
        is_trusted=found.distribution == REGISTRY.distribution,
    )


def _made(found: Registered, options: Mapping[str, Any]) -> LogitsProcessor:
    spec = found.spec
    check_options(spec, options, kind="logits processor", field="logits_processors")
    processor = spec.make(**options)
    for method in ("start", "advance", "process"):
        if not callable(getattr(processor, method, None)):
            wrong(spec.called, f"{described(processor)} without a method {method}; see generation.LogitsProcessor.")
    return cast(LogitsProcessor, processor)
