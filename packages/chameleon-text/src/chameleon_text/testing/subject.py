"""The subject of the conformance suites: a plugin, in the processor of a small vocabulary."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import settings

from ..codecs import CodecContext
from ..vocabulary import Vocabulary
from .image_tokenizer import FakeImageTokenizer
from .tokenizers import make_tokenizer

LAW = settings(max_examples=25, deadline=None, derandomize=True, database=None)


class Subject:
    """The plugin that a subclass names, and the parts of a processor to test it with."""

    name: ClassVar[str]
    """The name that the plugin under test is registered under."""
    pytestmark = pytest.mark.filterwarnings("ignore::chameleon_text.PluginWarning")
    """What else is installed and broken fails no suite but its own, also where warnings are errors."""
    more_specials: ClassVar[tuple[str, ...]] = ()
    """Special tokens that it needs beside those of every vocabulary."""

    @pytest.fixture
    def context(self) -> CodecContext:
        """The parts of a processor whose vocabulary has ``more_specials``, 64 codes, and four of them a picture."""
        return make_context(self.more_specials)


def make_context(more_specials: tuple[str, ...] = ()) -> CodecContext:
    """Return the parts of a small processor that reads pictures."""
    tokenizer = make_tokenizer(more_specials=more_specials)
    image_tokenizer = FakeImageTokenizer()
    return CodecContext(
        tokenizer=tokenizer,
        vocabulary=Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids),
        image_tokenizer=image_tokenizer,
        image_seq_length=image_tokenizer.tokens_per_image,
    )
