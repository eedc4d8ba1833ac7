"""Segment grammars: which ids a model may write of a segment, one after the other, and when the segment ends.

A codec that has one lets generation write its segments. The grammar is a pure state machine, so that ids can be written
on trial and taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .plugin_calls import described, plugin_call, wrong


class OpenSegment(Protocol):
    """A segment that is being written: what may come next in it. It never changes; ``accept`` returns the next one."""

    @property
    def next_ids(self) -> tuple[int, ...]:
        """The ids that may come next, at least one, each once."""

    @property
    def least_ids_left(self) -> int:
        """The smallest number of ids that still belong to it, ≥ 1."""

    @property
    def ids_left(self) -> int | None:
        """The largest number of ids that still belong to it; None for no limit."""

    def accept(self, token_id: int, /) -> OpenSegment | None:
        """Return the segment after one more id, one of ``next_ids``; None where that was its last."""


class SegmentGrammar(Protocol):
    """How the segments of a codec are written, as its attribute ``grammar``.

    - What a grammar lets come, from an id of ``begin_ids`` to the last, is a segment that the codec decodes whole.
    - Whatever the codec encodes may come.

    ``chameleon_text.testing.SegmentCodecConformance`` checks one.
    """

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """The ids that begin a segment, at least one. They come nowhere else in one."""

    def open(self, begin_id: int, room: int | None, /) -> OpenSegment | None:
        """Return the segment that an id of ``begin_ids`` begins; None where it consists of that id alone.

        ``room`` is how many ids may follow: of what may come, the segment lets only come after which it can still end
        within them. It is never less than the shortest segment takes. None is no limit.
        """


class CheckedGrammar:
    """The grammar of a codec, in which whatever goes wrong is a ``BrokenPluginError`` that names the codec.

    ``ids`` are the codec's; no other comes in a segment. ``owner`` is what errors call the codec.
    """

    def __init__(self, grammar: SegmentGrammar, ids: frozenset[int], owner: str) -> None:
        self.ids = ids
        self._grammar = grammar
        self._owner = owner
        self._inner_ids = ids
        with plugin_call(owner, "reading the ids that begin a segment"):
            begin_ids = grammar.begin_ids
        self.begin_ids = self._checked_ids(begin_ids, "begin_ids")
        self._inner_ids = ids.difference(self.begin_ids)
        self._known: object = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._grammar).__name__})"

    def open(self, begin_id: int, room: int | None = None, /) -> CheckedSegment | None:
        """Return the segment that ``begin_id`` begins, which may have ``room`` ids more; None for no limit."""
        with plugin_call(self._owner, "opening a segment"):
            opened = self._grammar.open(begin_id, room)
        return self._checked(opened, "open")

    def accept(self, segment: OpenSegment, token_id: int) -> CheckedSegment | None:
        """Return what a segment is after one more id."""
        with plugin_call(self._owner, f"accepting the id {token_id}"):
            accepted = segment.accept(token_id)
        return self._checked(accepted, "accept")

    def _checked(self, segment: OpenSegment | None, method: str) -> CheckedSegment | None:
        if segment is None:
            return None
        if not callable(getattr(segment, "accept", None)):
            wrong(self._owner, f"{described(segment)} from {method}; expected an OpenSegment or None.")
        with plugin_call(self._owner, "asked what may come next in a segment"):
            next_ids, least, most = segment.next_ids, segment.least_ids_left, segment.ids_left
        if next_ids is not self._known:  # of one that is checked already, nothing can have changed
            self._known = self._checked_ids(next_ids, "next_ids")
        for name, number in (("least_ids_left", least), ("ids_left", most)):
            if (type(number) is not int or number < 1) and not (number is None and name == "ids_left"):
                wrong(self._owner, f"{described(number)} as {name} of a segment; expected an integer ≥ 1.")
        return CheckedSegment(self, segment, next_ids, least, most)

    def _checked_ids(self, ids: Sequence[int], name: str) -> tuple[int, ...]:
        if not isinstance(ids, tuple) or not ids or len(set(ids)) < len(ids):
            wrong(self._owner, f"{ids!r:.80} as {name} of a segment; expected a tuple of ids, at least one, each once.")
        for token_id in ids:
            if type(token_id) is not int or token_id not in self._inner_ids:
                where = "begin a segment" if name == "begin_ids" else "come within a segment"
                wrong(self._owner, f"{token_id!r:.80} in {name}, which isn't one of its ids that may {where}.")
        return ids


class CheckedSegment:
    """An open segment of a ``CheckedGrammar``."""

    __slots__ = ("_grammar", "_segment", "ids_left", "least_ids_left", "next_ids")

    def __init__(
        self,
        grammar: CheckedGrammar,
        segment: OpenSegment,
        next_ids: tuple[int, ...],
        least_ids_left: int,
        ids_left: int | None,
    ) -> None:
        self._grammar = grammar
        self._segment = segment
        self.next_ids = next_ids
        self.least_ids_left = least_ids_left
        self.ids_left = ids_left

    def accept(self, token_id: int, /) -> CheckedSegment | None:
        """Return the segment after one more id; None where that was its last."""
        return self._grammar.accept(self._segment, token_id)
