"""The segment codecs of one processor: which segment type and which ids belong to which codec."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence

from .codecs import CodecContext, SegmentCodec
from .errors import ConfigError, DocumentError, VocabularyError
from .hookspecs import SegmentCodecSpec
from .plugins import PluginWarning
from .registry import segment_codec_spec, segment_codec_specs
from .segments import Segment, Special


class CodecTable:
    """Segments to ids and back, each by the codec of its type.

    ``given`` are codecs by name, used in place of the installed ones. An installed one that can't be used with this
    vocabulary is left out; the reason is the error when one of its segments is encoded.
    """

    def __init__(self, context: CodecContext, given: Mapping[str, SegmentCodec]) -> None:
        self._tokenizer = context.tokenizer
        self._codecs: dict[type[Segment], SegmentCodec] = {}
        self._owners: dict[int, SegmentCodec] = {}
        self._names: dict[int, str] = {}
        self._reasons: dict[type[Segment], str] = {}
        for name in given:
            segment_codec_spec(name)  # an unknown name is an error, not a codec that is never used
        for spec in segment_codec_specs():
            if spec.name in given:
                reason = self._admit(spec, given[spec.name])
                if reason is not None:
                    raise ConfigError(f"the segment codec that was given for {spec.name!r}: {reason}")
            else:
                reason = self._install(spec, context)
            if reason is not None:
                self._reasons[spec.segment] = f"the segment codec {spec.name!r} can't be used here: {reason}"

    def encode(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Return the ids of each segment; all of one type are encoded together."""
        rows: list[list[int]] = [[] for _ in segments]
        positions: dict[type[Segment], list[int]] = {}
        for position, segment in enumerate(segments):
            if isinstance(segment, Special):
                rows[position] = [self._special_id(segment.name)]
            else:
                positions.setdefault(type(segment), []).append(position)
        for kind, of_kind in positions.items():
            encoded = self._codec(kind).encode([segments[position] for position in of_kind])
            for position, ids in zip(of_kind, encoded, strict=True):
                rows[position] = list(ids)
        return rows

    def decode(self, ids: Sequence[int]) -> list[Segment]:
        """Return the segments of a row of ids; an id that no codec has is a ``Special``."""
        segments: list[Segment] = []
        position = 0
        while position < len(ids):
            owner = self._owners.get(ids[position])
            if owner is None:
                segments.append(Special(self._name(ids[position])))
                position += 1
                continue
            segment, end = owner.decode(ids, position)
            if end <= position:
                raise DocumentError(
                    f"the codec of {type(segment).__name__} read no id at position {position}; it must read one."
                )
            segments.append(segment)
            position = end
        return segments

    def _install(self, spec: SegmentCodecSpec, context: CodecContext) -> str | None:
        try:
            return spec.why_unsupported(context) or self._admit(spec, spec.make(context))
        # Any exception: a third-party codec must not stop documents that have no such segment.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"segment codec {spec.name!r} is not used: {reason}", PluginWarning, stacklevel=2)
            return reason

    def _admit(self, spec: SegmentCodecSpec, codec: SegmentCodec) -> str | None:
        taken = self._owners.keys() & codec.ids
        if taken:
            first = min(taken)
            return f"its id {first} ({self._name(first)!r}) already belongs to the codec {self._names[first]!r}."
        self._codecs[spec.segment] = codec
        self._owners |= dict.fromkeys(codec.ids, codec)
        self._names |= dict.fromkeys(codec.ids, spec.name)
        return None

    def _codec(self, kind: type[Segment]) -> SegmentCodec:
        if kind in self._codecs:
            return self._codecs[kind]
        if kind in self._reasons:
            raise DocumentError(self._reasons[kind])
        known = ", ".join(each.__name__ for each in self._codecs)
        raise DocumentError(f"no installed codec is for {kind.__name__} segments. Installed: {known}.")

    def _special_id(self, name: str) -> int:
        token_id = self._tokenizer.token_ids.get(name)
        if token_id is None or token_id not in self._tokenizer.reserved_ids:
            specials = [self._tokenizer.names[each] for each in self._tokenizer.special_ids]
            close = difflib.get_close_matches(name, specials, n=1)
            raise DocumentError(
                f"Special({name!r}): the vocabulary has no special token of that name."
                + (f" Did you mean {close[0]!r}?" if close else "")
            )
        return token_id

    def _name(self, token_id: int) -> str:
        try:
            return self._tokenizer.names[token_id]
        except KeyError:
            raise VocabularyError(
                f"id {token_id} has no name in this vocabulary, whose highest id is {len(self._tokenizer) - 1}."
            ) from None
