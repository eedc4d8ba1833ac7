"""What the conformance suites share: a standard test is left out with a stated reason, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import settings

from ..codecs import CodecContext
from ..vocabulary import Vocabulary
from .image_tokenizer import FakeImageTokenizer
from .tokenizers import make_tokenizer

LAW = settings(max_examples=25, deadline=None, derandomize=True, database=None)


class Conformance:
    """Base of the suites. A class that derives from it directly is a suite; those derived from a suite are its users.

    A user names a test that doesn't apply in ``not_applicable`` with the reason, and it is skipped with it. A user that
    replaces or deletes a standard test raises ``TypeError`` when it is defined, so that pytest can't collect it.
    """

    name: ClassVar[str]
    """What the plugin under test is registered as."""
    more_specials: ClassVar[tuple[str, ...]] = ()
    """Special tokens that it needs beside those of every Chameleon's vocabulary."""
    not_applicable: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suite = next((base for base in cls.__mro__[1:] if Conformance in base.__bases__), None)
        if suite is None:
            return
        standard = {name: test for name, test in vars(suite).items() if name.startswith("test_")}
        replaced = [name for name, test in standard.items() if getattr(cls, name) is not test]
        unknown = [name for name in cls.not_applicable if name not in standard]
        unexplained = [name for name, reason in cls.not_applicable.items() if not reason.strip()]
        for names, what in (
            (replaced, "replaces"),
            (unknown, "leaves out what is no standard test:"),
            (unexplained, "gives no reason to leave out"),
        ):
            if names:
                raise TypeError(
                    f"{cls.__name__} {what} {', '.join(names)}. A standard test of {suite.__name__} is left out by "
                    "naming it in not_applicable with the reason."
                )

    @pytest.fixture(autouse=True)
    def _leave_out(self, request: pytest.FixtureRequest) -> None:
        reason = self.not_applicable.get(request.node.originalname)
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture
    def context(self) -> CodecContext:
        """The parts of a processor whose vocabulary has ``more_specials``, 64 codes, and four of them a picture."""
        return make_context(self.more_specials)


def make_context(more_specials: tuple[str, ...] = ()) -> CodecContext:
    """The parts of a small processor that reads pictures."""
    tokenizer = make_tokenizer(more_specials=more_specials)
    image_tokenizer = FakeImageTokenizer()
    return CodecContext(
        tokenizer=tokenizer,
        vocabulary=Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids),
        image_tokenizer=image_tokenizer,
        image_seq_length=image_tokenizer.tokens_per_image,
    )
