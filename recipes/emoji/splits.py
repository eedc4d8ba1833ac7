"""Which pictures are training data: near copies are kept together, and every stage withholds the same ones.

Shapes: B pictures, H W pixels, C channels, F features.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chameleon_core.evaluation import embedded_requests

WITHHELD_SHAPES = frozenset(embedded_requests.WITHHELD_SHAPES)
"""Withheld in every style: a model that draws one has combined a colour and a shape that it saw only apart."""
NEAR_COPY_DB = 30.0
POOLED_SIDE = 16
ROWS_AT_ONCE = 512


def share(*words: str) -> float:
    """Return a number in 0…1 that depends only on the words, for choices that every stage must make equally."""
    digest = hashlib.sha256("\x1f".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def near_copies(pictures_BHWC: npt.NDArray[np.uint8]) -> list[int]:
    """Return the cluster of each picture: pictures within 30 dB of each other, directly or through others.

    Averaging over cells never increases the mean squared difference, so that only pairs that are near after averaging
    are compared in full.
    """
    count, side = pictures_BHWC.shape[0], pictures_BHWC.shape[1]
    cell = side // POOLED_SIDE
    limit = 255.0**2 / 10 ** (NEAR_COPY_DB / 10)
    pooled = pictures_BHWC.reshape(count, POOLED_SIDE, cell, POOLED_SIDE, cell, -1).mean(axis=(2, 4), dtype=np.float32)
    features_BF = pooled.reshape(count, -1)
    norms_B = np.square(features_BF).sum(axis=1)
    parents = list(range(count))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for start in range(0, count, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        squares = norms_B[rows, None] + norms_B[None] - 2 * features_BF[rows] @ features_BF.T
        # One level of tolerance for float32's rounding; the full comparison decides.
        for row, column in np.argwhere(squares < (limit + 1) * features_BF.shape[1]):
            first, second = start + int(row), int(column)
            if first < second and root(first) != root(second):
                difference = pictures_BHWC[first].astype(np.float32) - pictures_BHWC[second]
                if float(np.mean(difference**2)) < limit:
                    parents[max(root(first), root(second))] = min(root(first), root(second))
    return [root(index) for index in range(count)]


def withhold_one_style(
    emoji: Sequence[str], clusters: Sequence[int], candidates: Sequence[int], *, fraction: float
) -> set[int]:
    """Return pictures to withhold so that ``fraction`` of the candidates' emoji lose one style each, and never two.

    ``emoji`` and ``clusters`` have an entry per picture. A picture is withheld together with its near copies, or
    kept if they include a second picture of some emoji.
    """
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, cluster in enumerate(clusters):
        members[cluster].append(index)
    wanted = math.ceil(fraction * len({emoji[index] for index in candidates}))
    withheld: set[int] = set()
    losing: set[str] = set()
    for index in sorted(candidates, key=lambda index: share("style", emoji[index], str(index))):
        if len(losing) >= wanted:
            break
        group = members[clusters[index]]
        names = [emoji[member] for member in group]
        if len(set(names)) == len(names) and losing.isdisjoint(names):
            withheld.update(group)
            losing.update(names)
    return withheld
