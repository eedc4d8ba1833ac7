"""What the tour asks the embedded model for."""

from __future__ import annotations

SEED = 0
"""Of every drawing for which no other seed is named."""

QUESTION = "what is this?"
"""What is asked about drawings that were withheld from training."""

KNOWN = (
    "a red apple",
    "a twemoji drawing of a whale",
    "a rocket",
    "a noto drawing of a fox",
    "a penguin",
    "a rainbow",
)
"""Things that the model learned, three of them in a style of its choice."""

REPEATED = "a tulip"
REPEATED_SEEDS = (0, 1, 2, 3, 4, 5)
"""One request with several seeds."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
SHAPES = ("heart", "circle", "square")
WITHHELD_SEEDS = (1, 2, 3, 4, 5)
"""Further seeds for the pairs of colour and shape that were withheld from training."""

STORY = ("here is a rabbit", " and a carrot")
"""The texts of a document; a picture follows each."""

HARD = (
    "a cat left of a pizza",
    "a penguin above a banana",
    "a rocket on a blue background",
    "a house on a green background",
    "a guitar",
    "a cat",
)
"""Two scenes, two grounds, a thing that the model never learned, and one that it learned badly."""


def pair(colour: str, shape: str) -> str:
    """Return the request for a shape in a colour; all in one style, so that they can be compared."""
    return f"a twemoji drawing of a {colour} {shape}"
