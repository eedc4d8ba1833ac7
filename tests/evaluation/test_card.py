"""``chameleon eval emoji`` in full: the figures are those of the model card, within three minutes on two cores."""

from __future__ import annotations

import json
import time
from pathlib import Path

from typer.testing import CliRunner

from chameleon_core.cli.app import app
from chameleon_emoji import figures

LONGEST = 180
"""Seconds, on two cores."""
MEASURED = 15
"""Figures of the card that need neither the training data nor the classifier that it trained."""


def test_the_figures_are_those_of_the_card(tmp_path: Path) -> None:
    started = time.perf_counter()
    result = CliRunner().invoke(app, ["eval", "emoji", "--output", str(tmp_path)])
    seconds = time.perf_counter() - started
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["card"]
    assert {each["name"]: each["card"] for each in card} == {name: each.value for name, each in figures().items()}
    measured = [each for each in card if each["value"] is not None]
    assert len(measured) == MEASURED
    differing = {each["name"]: (each["value"], each["card"]) for each in measured if not each["equals"]}
    assert differing == {}
    assert all(each["reason"] for each in card if each["value"] is None)
    assert seconds < LONGEST
