"""Running the probes: reading the areas' files, evaluating each line on both sides, naming what came out."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import random
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub import constants

from .checkpoint import NUM_CODES, save_checkpoint
from .outcomes import Failure, equal, failure, plain
from .sides import Names, our_classes, their_classes

AREAS = Path(__file__).parent / "areas"
Status = Literal["same", "other", "refused", "both refuse"]


@dataclass(frozen=True)
class Probe:
    """A line of Python, and the reason that is stated where the two sides differ."""

    area: str
    line: str
    stated: Literal["other", "refused"] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """What both sides gave."""

    probe: Probe
    theirs: Any
    ours: Any

    @property
    def status(self) -> Status:
        if equal(self.theirs, self.ours):
            return "both refuse" if isinstance(self.theirs, Failure) else "same"
        return "refused" if isinstance(self.ours, Failure) else "other"

    @property
    def problem(self) -> str | None:
        """Why this result may not stand: a difference that nobody states, or a foreign error."""
        stated = self.probe.stated
        if stated is None:
            if isinstance(self.ours, Failure) and not self.ours.is_ours and not isinstance(self.theirs, Failure):
                return "fails with an error that isn't ours"
            return None if self.status in ("same", "both refuse") else f"{self.status}, for no stated reason"
        if self.status != stated:
            return f"stated as {stated!r}, but it is {self.status!r}"
        if stated == "refused" and not self.ours.is_ours:
            return "refused by an error that isn't ours"
        return None


def read_probes() -> list[Probe]:
    """Each line of the files in ``areas`` is a probe; ``    other: why`` or ``    refused: why`` below it a reason."""
    probes: list[Probe] = []
    for path in sorted(AREAS.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            if line.startswith("    "):
                stated, _, reason = line.strip().partition(": ")
                assert stated in ("other", "refused"), line
                last = probes.pop()
                probes.append(Probe(last.area, last.line, stated, reason))
            else:
                probes.append(Probe(path.stem.partition("-")[2], line))
    return probes


def run_probes(probes: list[Probe]) -> Iterator[Result]:
    """Run each on both sides. A probe of several statements gets objects of its own, for it changes them."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        folder = Path(name) / "checkpoint"
        folder.mkdir()
        save_checkpoint(folder)
        sides = []
        for which, classes in (("theirs", their_classes()), ("ours", our_classes())):
            scratch = Path(name) / which
            scratch.mkdir()
            sides.append(Names(classes, folder, scratch))
        codes = torch.zeros(len(sides[0]["tokenizer"]), dtype=torch.bool)
        codes[4 : 4 + NUM_CODES] = True
        for probe in probes:
            theirs, ours = (evaluate(probe.line, side, codes) for side in sides)
            yield Result(probe, theirs, ours)


def evaluate(line: str, names: Names, codes: torch.Tensor) -> Any:
    """The plain value of a line, or how it failed."""
    *statements, last = ast.parse(line).body
    assert isinstance(last, ast.Expr), line
    if statements:
        names = names.apart()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            scope = Scope(names)
            exec(compile(ast.Module(statements, []), line, "exec"), scope)
            value = plain(eval(compile(ast.Expression(last.value), line, "eval"), scope), codes)
    except NameError:
        raise
    except Exception as error:
        value = failure(error)
    return value


class Scope(dict[str, Any]):
    """Global names of a probe: those of its side, made on use."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.names = names

    def __missing__(self, name: str) -> Any:
        return self.names[name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the messages of transformers, and without the network."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.CRITICAL)
    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        constants.HF_HUB_OFFLINE = offline
