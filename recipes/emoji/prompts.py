"""Sentences about pictures: names, captions, questions with their answers, and requests to draw.

A ``Composition`` describes a picture; every sentence is made from it alone. The form is chosen by a random generator,
so that a seed always gives the same sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from chameleon_core.evaluation.embedded_requests import ONE_WORD, STYLES, WHAT, WHICH_GROUP, WITH_STYLE, with_article

from .augment import Arrangement

T = TypeVar("T")

GROUPS = {
    3: "animals and nature",
    4: "food and drink",
    5: "travel and places",
}
"""Unicode's groups that the transformer learns; there are no questions about the group of plain shapes."""

WHICH_STYLE = "which style is it?"


@dataclass(frozen=True, slots=True)
class Composition:
    """What a picture shows: one thing, possibly recoloured or on a ground, or two things of one style."""

    style: str
    name: str
    group: int | None = None
    colour: str | None = None
    """The colour to which its hue is changed."""
    ground: str | None = None
    arrangement: Arrangement | None = None
    other: str | None = None
    variant: int = 0
    """Distinguishes pictures of the same content: 0 is unchanged, others are moved, scaled and mirrored."""
    view: int = 0
    """If not 0, the picture is distorted; such pictures are only named, never drawn."""
    redrawn: bool = False
    """Whether a view also imitates another artist."""

    @property
    def key(self) -> str:
        """A unique name, which also seeds the random place and size."""
        parts = (self.style, self.name, self.colour, self.ground, self.arrangement, self.other, self.variant, self.view)
        return "|".join("" if part is None else str(part) for part in parts) + ("|redrawn" if self.redrawn else "")

    @property
    def subject(self) -> str:
        """The first thing without an article: ``green car``."""
        return self.name if self.colour is None else f"{self.colour} {self.name}"

    @property
    def phrase(self) -> str:
        """The content: ``a cat``, ``a rocket on a blue background``, ``a cat left of a pizza``."""
        said = with_article(self.subject)
        if self.arrangement is not None and self.other is not None:
            said = f"{said} {self.arrangement} {with_article(self.other)}"
        return said if self.ground is None else f"{said} on {with_article(self.ground)} background"

    @property
    def caption(self) -> str:
        """The content and the style: ``a twemoji drawing of a red apple``."""
        return f"a {self.style} drawing of {self.phrase}"


def questions(shown: Composition) -> Iterator[tuple[str, str]]:
    """Yield every question about a picture with its answer."""
    yield WHAT, shown.phrase
    yield "describe it", shown.phrase
    # No questions about the style of pictures that are only named.
    if shown.style in STYLES:
        yield WITH_STYLE, shown.caption
        yield "describe the drawing", shown.caption
        yield WHICH_STYLE, shown.style
    if shown.arrangement is None:
        yield "name it", shown.subject
        if " " not in shown.subject:
            yield ONE_WORD, shown.subject
        if shown.group in GROUPS:
            yield WHICH_GROUP, GROUPS[shown.group]


# Relative frequencies of the questions; 1 for the others. The name matters most.
_WEIGHTS = {WHAT: 4.0, ONE_WORD: 2.0, "name it": 2.0, WITH_STYLE: 2.0, WHICH_GROUP: 1.0, WHICH_STYLE: 0.5}


def ask(shown: Composition, random: np.random.Generator) -> tuple[str, str]:
    """Return a random question about a picture and its answer."""
    pairs = list(questions(shown))
    weights = np.array([_WEIGHTS.get(question, 1.0) for question, _ in pairs])
    return pairs[int(random.choice(len(pairs), p=weights / weights.sum()))]


def requests(shown: Composition) -> tuple[str, ...]:
    """Return every form of a request for a picture."""
    phrase, style = shown.phrase, shown.style
    forms = (phrase, shown.caption, f"draw {phrase}", f"draw {phrase} in {style} style", f"{phrase}, {style}")
    return forms if shown.arrangement is not None or shown.ground is not None else (*forms, shown.subject)


def request(shown: Composition, random: np.random.Generator) -> str:
    """Return a random form of a request for a picture."""
    forms = requests(shown)
    return shown.caption if random.random() < 0.25 else _one_of(forms, random)


def captions(shown: Composition) -> tuple[str, ...]:
    """Return every caption of a picture in a document without questions."""
    return shown.phrase, shown.caption, f"this is {shown.phrase}", f"{shown.phrase}, {shown.style}"


def caption(shown: Composition, random: np.random.Generator) -> str:
    """Return a random caption of a picture."""
    return _one_of(captions(shown), random)


def pair(first: Composition, second: Composition, random: np.random.Generator) -> tuple[str, str]:
    """Return random texts before and after the first of two pictures, which the second follows."""
    before, after = _one_of((("here is ", " and "), ("this is ", " and this is "), ("", ", then ")), random)
    return f"{before}{first.phrase}", f"{after}{second.phrase}"


def every_sentence(shown: Composition) -> Iterator[str]:
    """Yield every text about a picture, for the vocabulary."""
    yield from captions(shown)
    yield from requests(shown)
    for question, answer in questions(shown):
        yield question
        yield answer


def _one_of(choices: Sequence[T], random: np.random.Generator) -> T:
    return choices[int(random.integers(len(choices)))]
