"""Hypothesis strategies for text, vocabularies, tokenizers, documents, conversations and what grammars let come."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from hypothesis import strategies as st

from ..segment_grammar import SegmentGrammar
from ..segments import Document, Image, Segment, Text, normalized
from ..templates import ASSISTANT, USER, Turn
from ..tokenizer import TextTokenizer
from ..vocabulary import IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER_AS_PUBLISHED, REQUIRED_NAMES, picture_name
from .tokenizers import WORDS, make_tokenizer

HOSTILE = (*REQUIRED_NAMES, IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER_AS_PUBLISHED, "<unk>", "<sentinel:0>", "<", "</")
"""What a text may spell without becoming it."""


def texts(*, max_size: int = 40) -> st.SearchStrategy[str]:
    """Return texts of any characters, mixed with words that merge, names of special tokens and names of codes."""
    characters = st.text(st.characters(codec="utf-8"), max_size=8)
    names = st.sampled_from(HOSTILE) | st.integers(0, 63).map(picture_name)
    parts = st.lists(characters | st.sampled_from(WORDS) | names, max_size=max(1, max_size // 8))
    return parts.map("".join)


@st.composite
def vocabularies(draw: st.DrawFn, *, max_codes: int = 32) -> dict[str, int]:
    """Draw ``{name: id}`` of a vocabulary: ids in any order and with gaps, codes not in the order of their ids."""
    num_codes = draw(st.integers(1, max_codes))
    placeholder = draw(st.sampled_from([IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER_AS_PUBLISHED]))
    names = [*REQUIRED_NAMES, placeholder, "<", "a", "the", *map(picture_name, range(num_codes))]
    ids = draw(st.lists(st.integers(0, 4 * len(names)), min_size=len(names), max_size=len(names), unique=True))
    return dict(zip(draw(st.permutations(names)), ids, strict=True))


def permuted_tokenizers(*, num_codes: int = 64) -> st.SearchStrategy[TextTokenizer]:
    """Return tokenizers whose ids are in any order, with special tokens as added tokens or as words of the BPE alone.

    Some merge letters to names that text must not become, or to ``</``, which is text.
    """
    words = st.sampled_from([WORDS, ("</", "</div"), ("IMGIMGBZ", " IMGIMGBZ", "<eoss>", "<image>")])
    return st.builds(_tokenizer, st.just(num_codes), st.none() | st.integers(0, 9), words, st.booleans())


def documents(
    *, num_codes: int = 64, tokens_per_image: int = 4, segments: Sequence[st.SearchStrategy[Segment]] = ()
) -> st.SearchStrategy[Document]:
    """Return documents of text and of pictures as codes, complete or not. ``segments`` adds other segment types."""
    codes = st.lists(st.integers(0, num_codes - 1), max_size=tokens_per_image)
    pictures = codes.map(lambda each: Image(codes=tuple(each)))
    return st.lists(st.one_of(texts().map(Text), pictures, *segments), max_size=5).map(Document)


def conversations(
    *, roles: Sequence[str] = (USER, ASSISTANT), document: st.SearchStrategy[Document] | None = None, max_turns: int = 4
) -> st.SearchStrategy[list[Turn]]:
    """Return turns in any order of roles, each with a document in its normal form, by default from ``documents``."""
    said = (documents() if document is None else document).map(lambda each: tuple(normalized(each)))
    return st.lists(st.builds(Turn, st.sampled_from(list(roles)), said), max_size=max_turns)


@st.composite
def written_segments(draw: st.DrawFn, grammar: SegmentGrammar, *, max_ids: int = 24) -> list[int]:
    """Draw the ids of a segment, each one that may come next, in a room of up to ``max_ids`` or of the shortest one.

    Raises ``AssertionError`` where the segment doesn't end in its room.
    """
    begin_id = draw(st.sampled_from(grammar.begin_ids))
    opened = grammar.open(begin_id, None)
    least = 0 if opened is None else opened.least_ids_left
    room = draw(st.integers(least, max(least, max_ids)))
    segment = grammar.open(begin_id, room)
    ids = [begin_id]
    while segment is not None:
        assert len(ids) <= room, f"the segment doesn't end within {room} ids"
        ids.append(draw(st.sampled_from(segment.next_ids)))
        segment = segment.accept(ids[-1])
    return ids


@functools.cache  # a tokenizer takes milliseconds to build, and there are few different ones
def _tokenizer(num_codes: int, seed: int | None, words: tuple[str, ...], added_tokens: bool) -> TextTokenizer:
    return make_tokenizer(num_codes, seed=seed, words=words, added_tokens=added_tokens)
