"""The embedded model: a code drawn with guidance, a caption, and the first picture of a process."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import torch

from chameleon_core import Chameleon

from .products import matrix_products
from .rates import alone
from .row import Contest, Goal, Row, Scale, milliseconds
from .small_model import picture_steps

NAME = "emoji"
FIRST_PICTURE = f"""
import time
from chameleon_core import Chameleon
began = time.perf_counter()
Chameleon.from_pretrained({NAME!r}).draw("a red apple", seed=0)
print(1000 * (time.perf_counter() - began))
"""


def code(scale: Scale) -> Contest:
    """Return a contest over the milliseconds of a code."""
    chameleon = Chameleon.from_pretrained(NAME)
    model = chameleon.model
    prompt_BT = torch.tensor([chameleon.prompt_ids("a red apple")])
    options = model.generation_options.replace(modality="image", seed=0)
    side = picture_steps(model, prompt_BT, options, scale.pick(model.layout.tokens_per_image, 48, 4))
    return Contest(side, limit=alone("products", matrix_products(model, 2)))


def caption(scale: Scale) -> Contest:
    """Return a contest over the milliseconds of a caption, from the picture to the text."""
    chameleon = Chameleon.from_pretrained(NAME)
    picture = chameleon.draw("a red apple", seed=0)
    calls = scale.pick(10, 4, 1)
    return Contest(milliseconds(lambda: [chameleon.caption(picture) for _ in range(calls)], per=calls))


def first_picture(scale: Scale) -> Contest:
    """Return a contest over the milliseconds from the import to the first picture, in a process of its own."""
    run = partial(subprocess.run, [sys.executable, "-c", FIRST_PICTURE], check=True, stdout=subprocess.PIPE, text=True)
    return Contest(lambda: float(run().stdout))


ROWS = [
    Row("embedded-code", "a code of a picture, with guidance", code, "ms a code", Goal(figure=2.5)),
    Row("embedded-caption", "a caption", caption, goal=Goal(figure=25.0)),
    Row("embedded-first-picture", "the first picture after the import", first_picture, goal=Goal(figure=400.0)),
]
