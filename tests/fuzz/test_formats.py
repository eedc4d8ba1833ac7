"""The inventory: every valid folder is accepted, so that a broken one is refused for what was broken."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from .engine import Outcome, judge
from .formats import FORMATS
from .formats import __doc__ as inventory


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_valid_folder_is_accepted(form, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verdict = judge(form, 0, tmp_path / "input")
    assert verdict.outcome is Outcome.ACCEPTED, f"{verdict.error}: {verdict.message} in {verdict.place}"


def test_names_are_unique_and_in_the_inventory() -> None:
    names = [form.name for form in FORMATS]
    assert len(set(names)) == len(names)
    quantizers = {"vq-residual", "vq-fsq", "vq-lfq", "vq-ema", "vq-vector-quantize-pytorch"}
    missing = [name for name in names if name not in str(inventory) and name not in quantizers]
    assert not missing
