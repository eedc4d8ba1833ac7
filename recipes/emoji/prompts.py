"""What is said of a picture: names, captions, questions with their answers, and requests to draw.

A ``Composition`` says what one picture shows; every sentence here is made from it alone. Which form is taken is
drawn from a generator, so that a seed gives the same sentences again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .augment import Arrangement

T = TypeVar("T")

STYLES = ("noto", "twemoji", "fluent")
GROUPS = {
    3: "animals and nature",
    4: "food and drink",
    5: "travel and places",
}
"""Unicode's groups that the transformer learns; plain hearts, circles and squares are asked for no group."""

WHAT = "what is this?"
ONE_WORD = "name it in one word"
WITH_STYLE = "what is this, and in which style?"
WHICH_GROUP = "which group is it?"
WHICH_STYLE = "which style is it?"


@dataclass(frozen=True, slots=True)
class Composition:
    """What one picture shows: one thing, recoloured or on a ground where it says so, or two things of one style."""

    style: str
    name: str
    group: int | None = None
    colour: str | None = None
    """The colour that its hue was turned to."""
    ground: str | None = None
    arrangement: Arrangement | None = None
    other: str | None = None
    variant: int = 0
    """Tells pictures apart that show the same: 0 is the picture as it is, others are moved, sized and mirrored."""
    view: int = 0
    """Other than 0: turned, stretched and in another light, to be named and never to be drawn."""
    redrawn: bool = False
    """A view as if by another hand."""

    @property
    def key(self) -> str:
        """A name of its own, from which also the place and size are drawn."""
        parts = (self.style, self.name, self.colour, self.ground, self.arrangement, self.other, self.variant, self.view)
        return "|".join("" if part is None else str(part) for part in parts) + ("|redrawn" if self.redrawn else "")

    @property
    def subject(self) -> str:
        """The first thing without an article: ``green car``."""
        return self.name if self.colour is None else f"{self.colour} {self.name}"

    @property
    def phrase(self) -> str:
        """What is seen: ``a cat``, ``a rocket on a blue background``, ``a cat left of a pizza``."""
        said = with_article(self.subject)
        if self.arrangement is not None and self.other is not None:
            said = f"{said} {self.arrangement} {with_article(self.other)}"
        return said if self.ground is None else f"{said} on {with_article(self.ground)} background"

    @property
    def caption(self) -> str:
        """What is seen and whose drawing it is: ``a twemoji drawing of a red apple``."""
        return f"a {self.style} drawing of {self.phrase}"


def with_article(noun: str) -> str:
    """``a cat``, ``an apple``, ``grapes``: what looks like a plural has no article, nor has a time of day."""
    last = noun.rsplit(" ", 1)[-1]
    if last.endswith("s") and not last.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith(("o’clock", "-thirty")):
        return noun
    return f"{'an' if noun[0] in 'aeio' and not noun.startswith(('eu', 'ew', 'one')) else 'a'} {noun}"


def name_in(answer: str) -> str:
    """The name in a caption, as far as it is one: without the style and the article."""
    said = answer.strip()
    for style in STYLES:
        said = said.removeprefix(f"a {style} drawing of ")
    return said.removeprefix("an ").removeprefix("a ")


def questions(shown: Composition) -> Iterator[tuple[str, str]]:
    """Every question that can be asked about a picture, with its answer."""
    yield WHAT, shown.phrase
    yield "describe it", shown.phrase
    # Of what is named only, nobody asks for the style.
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


# How much more often than others a question is asked: the name matters most.
_WEIGHTS = {WHAT: 4.0, ONE_WORD: 2.0, "name it": 2.0, WITH_STYLE: 2.0, WHICH_GROUP: 1.0, WHICH_STYLE: 0.5}


def ask(shown: Composition, random: np.random.Generator) -> tuple[str, str]:
    """One question about a picture and its answer."""
    pairs = list(questions(shown))
    weights = np.array([_WEIGHTS.get(question, 1.0) for question, _ in pairs])
    return pairs[int(random.choice(len(pairs), p=weights / weights.sum()))]


def requests(shown: Composition) -> tuple[str, ...]:
    """Every way to ask for a picture."""
    phrase, style = shown.phrase, shown.style
    forms = (phrase, shown.caption, f"draw {phrase}", f"draw {phrase} in {style} style", f"{phrase}, {style}")
    return forms if shown.arrangement is not None or shown.ground is not None else (*forms, shown.subject)


def request(shown: Composition, random: np.random.Generator) -> str:
    """One way to ask for a picture."""
    forms = requests(shown)
    return shown.caption if random.random() < 0.25 else _one_of(forms, random)


def captions(shown: Composition) -> tuple[str, ...]:
    """Every sentence that stands beside a picture in a document without questions."""
    return shown.phrase, shown.caption, f"this is {shown.phrase}", f"{shown.phrase}, {shown.style}"


def caption(shown: Composition, random: np.random.Generator) -> str:
    """One sentence that stands beside a picture."""
    return _one_of(captions(shown), random)


def pair(first: Composition, second: Composition, random: np.random.Generator) -> tuple[str, str]:
    """What is said before and after the first of two pictures, where the second follows."""
    before, after = _one_of((("here is ", " and "), ("this is ", " and this is "), ("", ", then ")), random)
    return f"{before}{first.phrase}", f"{after}{second.phrase}"


def every_sentence(shown: Composition) -> Iterator[str]:
    """Every text that can be said of a picture, for the vocabulary."""
    yield from captions(shown)
    yield from requests(shown)
    for question, answer in questions(shown):
        yield question
        yield answer


def _one_of(choices: Sequence[T], random: np.random.Generator) -> T:
    return choices[int(random.integers(len(choices)))]
