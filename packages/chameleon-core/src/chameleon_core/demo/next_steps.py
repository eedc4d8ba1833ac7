"""What to try after the tour: commands that a user can copy."""

from __future__ import annotations

from dataclasses import dataclass

QUICKSTART = "docs/quickstart.md"


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it does."""

    command: str
    """One line for any shell, the Windows one too."""
    meaning: str


STEPS = (
    Step(
        'chameleon generate emoji "a panda" --modality image --template chat --seed 0 --output panda',
        "draw a panda into panda/picture-1.png",
    ),
    Step(
        'chameleon generate emoji panda/picture-1.png "what is this?" --template chat',
        "ask what that picture shows",
    ),
    Step(
        'python -c "from chameleon_core import Chameleon; '
        "Chameleon.from_pretrained('emoji').draw('a fox', seed=1).save('fox.png')\"",
        "draw from Python",
    ),
)
"""They follow one another: the second asks about the picture of the first."""
