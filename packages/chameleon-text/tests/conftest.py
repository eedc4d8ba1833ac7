"""Fixtures that several tests use."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from chameleon_text import ChameleonProcessor, TextTokenizer
from chameleon_text.testing import FakeImageTokenizer, make_tokenizer

# The same examples in every run, whatever the machine's load.
settings.register_profile("chameleon", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("chameleon")


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return make_tokenizer()


@pytest.fixture
def image_tokenizer() -> FakeImageTokenizer:
    return FakeImageTokenizer()


@pytest.fixture
def processor(tokenizer: TextTokenizer, image_tokenizer: FakeImageTokenizer) -> ChameleonProcessor:
    """Reads pictures: four codes each."""
    return ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer)


@pytest.fixture
def picture() -> npt.NDArray[np.uint8]:
    """A picture whose codes are 5, 6, 7, 8."""
    return FakeImageTokenizer().decode([[5, 6, 7, 8]])[0]


@pytest.fixture(scope="session", autouse=True)
def lists_unless_told() -> Iterator[None]:
    """Batches are lists, as they are without PyTorch, which these tests don't need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chameleon_text.rows._has_torch", lambda: False)
        yield
