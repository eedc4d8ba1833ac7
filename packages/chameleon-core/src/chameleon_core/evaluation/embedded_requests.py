"""What the embedded model is asked for by its card, in the words of its training; ``recipes/emoji`` imports them."""

from __future__ import annotations

import hashlib

STYLES = ("noto", "twemoji", "fluent")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
SHAPES = ("heart", "circle", "square")
WITHHELD_SHAPES = ("blue square", "green heart", "purple circle")
"""The pairs of a colour and a shape that were withheld from training in every style."""

WHAT = "what is this?"
ONE_WORD = "name it in one word"
WITH_STYLE = "what is this, and in which style?"
WHICH_GROUP = "which group is it?"

GROUNDS = {
    "white": (255, 255, 255),
    "red": (221, 46, 68),
    "orange": (244, 144, 12),
    "yellow": (253, 203, 88),
    "green": (120, 177, 89),
    "blue": (85, 172, 238),
    "purple": (170, 142, 214),
    "brown": (193, 105, 79),
    "grey": (153, 170, 181),
    "black": (49, 55, 61),
}
"""The colours of grounds that a request can name, in levels of red, green and blue."""
COMPOSED = frozenset(
    {
        *("airplane", "automobile", "banana", "beer mug", "bird", "butterfly", "cat", "cow", "dog", "evergreen tree"),
        *("frog", "hamburger", "house", "lemon", "lion", "panda", "penguin", "pig", "pizza", "rabbit", "red apple"),
        *("rocket", "star", "sun"),
    }
)
"""The things that were trained on grounds and beside each other."""


def with_article(noun: str) -> str:
    """Return a noun with its article: ``a cat``, ``an apple``; plurals (``grapes``) have none."""
    last = noun.rsplit(" ", 1)[-1]
    if last.endswith("s") and not last.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith(("o’clock", "-thirty")):
        return noun
    has_vowel = noun[0] in "aeio" and not noun.startswith(("eu", "ew", "one"))
    return f"{'an' if has_vowel else 'a'} {noun}"


def request(style: str, name: str, ground: str | None = None) -> str:
    """Return the request for a drawing: ``a twemoji drawing of a cat on a red background``."""
    on_ground = "" if ground is None else f" on {with_article(ground)} background"
    return f"a {style} drawing of {with_article(name)}{on_ground}"


def name_in(answer: str) -> str:
    """Return an answer without its style and article."""
    said = answer.strip()
    for style in STYLES:
        said = said.removeprefix(f"a {style} drawing of ")
    return said.removeprefix("an ").removeprefix("a ")


def is_withheld(first: str, second: str) -> bool:
    """Return whether training never showed two things together, or a thing on a ground: a tenth of all pairs."""
    digest = hashlib.sha256("\x1f".join(("scene", *sorted((first, second)))).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < 0.1
