"""The segment codecs of one processor: which segment type and which ids belong to which codec."""

from __future__ import annotations

import contextlib
import difflib
import operator
import warnings
from collections.abc import Mapping, Sequence

from .batch import one_row
from .codecs import CodecContext, ImageCodec, SegmentCodec, TextCodec
from .errors import BrokenPluginError, ConfigError, DocumentError, VocabularyError
from .hookspecs import SegmentCodecSpec
from .plugin_calls import described, plugin_call, said, wrong
from .plugins import PluginWarning
from .registry import segment_codec_spec, segment_codec_specs
from .segment_grammar import CheckedGrammar
from .segments import Segment, Special
from .sized_codec import SizedImageCodec

MODALITIES = ("text", "image", "interleaved")
"""What chameleon-core's generation writes without a segment grammar, by name."""


class CodecTable:
    """Segments to ids and back, each by the codec of its type.

    ``grammars`` are those of the codecs that have one, by name.

    ``given`` are codecs by name, used in place of the installed ones. An installed one that can't be used with this
    vocabulary is left out; the reason is the error when one of its segments is encoded.
    """

    def __init__(self, context: CodecContext, given: Mapping[str, SegmentCodec]) -> None:
        self._tokenizer = context.tokenizer
        self._codecs: dict[type[Segment], SegmentCodec] = {}
        self._owners: dict[int, SegmentCodec] = {}
        self._names: dict[int, str] = {}
        self._specs: dict[int, SegmentCodecSpec] = {}
        self._called: dict[int, str] = {}
        self._checked: set[int] = set()
        self._reasons: dict[type[Segment], str] = {}
        self.grammars: dict[str, CheckedGrammar] = {}
        for name in given:
            segment_codec_spec(name)  # an unknown name is an error, not a codec that is never used
        for spec in segment_codec_specs():
            if spec.name in given:
                owner = f"the segment codec that was given for {spec.name!r}"
                with plugin_call(owner, "being read"):
                    reason = self._admit(spec, given[spec.name], owner)
                if reason is not None:
                    raise ConfigError(f"{owner}: {reason.removesuffix('.')}.")
            else:
                reason = self._install(spec, context)
            if reason is not None:
                self._reasons[spec.segment] = f"{spec.called} can't be used here: {reason}"

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
            encoded = self._encoded(kind, [segments[position] for position in of_kind])
            for position, ids in zip(of_kind, encoded, strict=True):
                rows[position] = ids
        return rows

    def _encoded(self, kind: type[Segment], segments: list[Segment]) -> list[list[int]]:
        codec = self._codec(kind)
        owner = self._called[id(codec)]
        with self._guard(codec, "encoding segments"):
            encoded = list(codec.encode(segments))
        if len(encoded) != len(segments):
            wrong(owner, f"{len(encoded)} rows of ids for {len(segments)} segments.")
        try:
            rows = [one_row(ids) for ids in encoded]
        except ConfigError as error:
            raise BrokenPluginError(f"{owner} returned invalid ids: {error}") from error
        if id(codec) in self._checked:
            for token_id in (each for row in rows for each in row):
                if self._owners.get(token_id) is not codec:
                    wrong(owner, f"the id {token_id}, which isn't one of its ids.")
        return rows

    def decode(self, ids: Sequence[int]) -> list[Segment]:
        """Return the segments of a row of ids; an id that no codec has is a ``Special``."""
        segments: list[Segment] = []
        position = 0
        while position < len(ids):
            owner = self._owners.get(ids[position])
            if owner is None:
                segments.append(Special(self._name(ids[position], f"at position {position}: ")))
                position += 1
                continue
            segment, position = self._decoded(owner, ids, position)
            segments.append(segment)
        return segments

    def _guard(self, codec: SegmentCodec, doing: str) -> contextlib.AbstractContextManager[None]:
        """Name the plugin in what it raises. What comes out of a built-in codec is the image tokenizer's error."""
        if id(codec) in self._checked:
            return plugin_call(self._called[id(codec)], doing)
        return contextlib.nullcontext()

    def _decoded(self, codec: SegmentCodec, ids: Sequence[int], start: int) -> tuple[Segment, int]:
        owner, spec = self._called[id(codec)], self._specs[id(codec)]
        with self._guard(codec, f"decoding the ids from position {start}"):
            decoded = codec.decode(ids, start)
            segment, end = decoded[0], operator.index(decoded[1])
        if not isinstance(segment, spec.segment):
            wrong(owner, f"{described(segment)} from decode; expected a {spec.segment.__name__}.")
        if not start < end <= len(ids):
            wrong(
                owner,
                f"the end {end} for a segment that begins at position {start} of {len(ids)} ids; it must read one id "
                "at least, and end within the ids.",
            )
        return segment, end

    def _install(self, spec: SegmentCodecSpec, context: CodecContext) -> str | None:
        try:
            reason = spec.why_unsupported(context)
            if reason is not None:
                return reason
            return self._admit(spec, spec.make(context), spec.called)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        # Any exception: a third-party codec must not stop documents that have no such segment.
        except BaseException as error:
            reason = said(error) if not isinstance(error, BrokenPluginError) else str(error).removesuffix(".")
            warnings.warn(f"{spec.called} is not used: {reason}.", PluginWarning, stacklevel=2)
            return reason

    def _admit(self, spec: SegmentCodecSpec, codec: SegmentCodec, owner: str) -> str | None:
        import numpy as np

        for method in ("encode", "decode"):
            if not callable(getattr(codec, method, None)):
                return f"it has no method {method}."
        ids = frozenset(codec.ids)
        for token_id in ids:
            if type(token_id) is not int and not isinstance(token_id, np.integer):
                return f"one of its ids is {described(token_id)}, expected integers."
            if token_id not in self._tokenizer.names:
                return f"its id {token_id} has no name in this vocabulary."
        taken = self._owners.keys() & ids
        if taken:
            first = min(taken)
            return f"its id {first} ({self._name(first)!r}) already belongs to the codec {self._names[first]!r}."
        grammar = getattr(codec, "grammar", None)
        if grammar is not None:
            if spec.name in MODALITIES:
                return f"its name is that of a modality, one of {', '.join(MODALITIES)}, so it can't have a grammar."
            if not callable(getattr(grammar, "open", None)):
                return f"its grammar is {described(grammar)} without a method open; see SegmentGrammar."
            self.grammars[spec.name] = CheckedGrammar(grammar, ids, owner)
        self._codecs[spec.segment] = codec
        self._owners |= dict.fromkeys(ids, codec)
        self._names |= dict.fromkeys(ids, spec.name)
        self._specs[id(codec)] = spec
        self._called[id(codec)] = owner
        if type(codec) not in (TextCodec, ImageCodec, SizedImageCodec):
            self._checked.add(id(codec))
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

    def _name(self, token_id: int, where: str = "") -> str:
        try:
            return self._tokenizer.names[token_id]
        except KeyError:
            raise VocabularyError(
                f"{where}id {token_id} has no name in this vocabulary, whose highest id is {len(self._tokenizer) - 1}."
            ) from None
