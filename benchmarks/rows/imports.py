"""What a process takes to import the packages, and the commands to print their help."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from .rates import alone
from .row import Contest, Goal, Row, Scale, Side, milliseconds


def process(*arguments: str) -> Side:
    """Return a side with the milliseconds of a Python process."""
    return milliseconds(partial(subprocess.run, [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL))


def imported(ours: str, theirs: str | None, least: str | None, scale: Scale) -> Contest:
    """Return a contest over importing, with what can't be left out."""
    return Contest(
        process("-c", ours),
        None if theirs is None or scale is Scale.TINY else process("-c", theirs),
        None if least is None else alone(least, process("-c", least)),
    )


def shown_help(module: str, scale: Scale) -> Contest:
    """Return a contest over ``--help``."""
    return Contest(process("-m", module, "--help"))


PEER = "from transformers import ChameleonForConditionalGeneration"
TOKENIZER, PIPELINE = "from chameleon_vq import ImageTokenizer", "from chameleon_core import Chameleon"
ROWS = [
    Row(
        "import-text",
        "import chameleon_text",
        partial(imported, "import chameleon_text", None, None),
        goal=Goal(figure=150.0),
    ),
    Row("import-vq", TOKENIZER, partial(imported, TOKENIZER, None, "import torch"), goal=Goal(over_limit=100.0)),
    Row("import-core", PIPELINE, partial(imported, PIPELINE, PEER, "import torch"), goal=Goal(over_limit=100.0)),
    Row("help-core", "chameleon --help", partial(shown_help, "chameleon_core"), goal=Goal(figure=200.0)),
    Row("help-vq", "chameleon-vq --help", partial(shown_help, "chameleon_vq"), goal=Goal(figure=200.0)),
]
