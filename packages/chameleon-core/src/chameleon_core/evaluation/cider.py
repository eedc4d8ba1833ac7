"""CIDEr-D: how much a caption is like what several people wrote of a picture.

The mean over n-grams of one to four words of the cosine of tf-idf vectors, clipped so that repeated words gain nothing,
times a factor for the difference of lengths; all times 10. Source: Vedantam, Zitnick and Parikh, "CIDEr:
Consensus-based Image Description Evaluation", 2015 (arXiv 1411.5726), section 5 and its variant D, with σ = 6.

Words are what letters, digits and apostrophes form, in lower case. (The published figures of data sets cut words with a
tokenizer in Java, which differs in rare words and in none of plain captions.)
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ..errors import ConfigError

LENGTHS = (1, 2, 3, 4)
"""The numbers of words of an n-gram."""
SIGMA = 6.0
"""The width, in words, of the factor for the difference of lengths."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

Gram = tuple[str, ...]


def words(caption: str) -> list[str]:
    """Return the words of a caption, in lower case."""
    return _WORD.findall(caption.lower())


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the CIDEr-D of each caption with the references of its picture, 0…10.

    An n-gram weighs the more, the fewer pictures' references have it: with one picture alone all weigh nothing, and
    the result is 0. Raises ``ConfigError`` where the lengths differ or a picture has no reference.
    """
    if len(captions) != len(references) or not all(references):
        raise ConfigError(
            f"got {len(captions)} captions and {len(references)} lists of references, expected a list of at least one "
            "reference for each caption."
        )
    counts = [[_counts(words(each)) for each in of_picture] for of_picture in references]
    pictures_with = Counter(gram for of_picture in counts for gram in set[Gram]().union(*of_picture))
    return [
        _score(words(caption), of_picture, pictures_with, len(captions))
        for caption, of_picture in zip(captions, references, strict=True)
    ]


def _score(caption: list[str], references: Sequence[str], pictures_with: Mapping[Gram, int], pictures: int) -> float:
    """Return the CIDEr-D of one caption."""
    mine = _weights(caption, pictures_with, pictures)
    similarities = []
    for reference in map(words, references):
        theirs = _weights(reference, pictures_with, pictures)
        factor = math.exp(-((len(caption) - len(reference)) ** 2) / (2 * SIGMA**2))
        similarities.append(factor * sum(_clipped_cosine(mine[n], theirs[n]) for n in LENGTHS) / len(LENGTHS))
    return 10 * sum(similarities) / len(similarities)


def _counts(found: list[str]) -> Counter[Gram]:
    """Return how often each n-gram of a caption occurs."""
    return Counter(tuple(found[start : start + n]) for n in LENGTHS for start in range(len(found) - n + 1))


def _weights(found: list[str], pictures_with: Mapping[Gram, int], pictures: int) -> dict[int, dict[Gram, float]]:
    """Return the tf-idf vector of the n-grams of each length."""
    vectors: dict[int, dict[Gram, float]] = {n: {} for n in LENGTHS}
    for gram, count in _counts(found).items():
        rarity = math.log(pictures) - math.log(max(1, pictures_with.get(gram, 0)))
        vectors[len(gram)][gram] = count * rarity
    return vectors


def _clipped_cosine(caption: Mapping[Gram, float], reference: Mapping[Gram, float]) -> float:
    """Return the cosine, in which a caption's n-gram counts for no more than it weighs in its reference."""
    product = sum(
        min(weight, reference[gram]) * reference[gram] for gram, weight in caption.items() if gram in reference
    )
    norms = math.sqrt(
        math.fsum(each**2 for each in caption.values()) * math.fsum(each**2 for each in reference.values())
    )
    return product / norms if norms else 0.0
