"""The vocabulary of the embedded model: every byte, pieces of the recipe's words, the names of the codes and specials.

It is small, so that the output layer costs little: at most ``TEXT_SIZE`` ids of text besides the codes.
"""

from __future__ import annotations

from collections.abc import Iterable

from chameleon_text import TextTokenizer, train_tokenizer

TEXT_SIZE = 768


def make_vocabulary(sentences: Iterable[str], *, num_codes: int, text_size: int = TEXT_SIZE) -> TextTokenizer:
    """Train a byte-level BPE with ``text_size`` ids of text (256 of them bytes) on sentences.

    The same sentences give the same file, in any order.
    """
    return train_tokenizer(sorted(sentences), num_codes=num_codes, text_size=text_size)
