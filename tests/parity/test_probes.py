"""What users of transformers type means the same here, or the page of compatibility says why not."""

from __future__ import annotations

import difflib

import pytest

from .probes.page import PAGE, generated, render
from .probes.probes import Result, read_probes, run_probes

THE_SAME = 625
"""How many give the same value. It may only grow."""
OPEN = 0
"""How many differ for no stated reason yet. It may only shrink."""
ROUNDED = 12
"""How many lines of the page may differ from one machine to another."""


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return list(run_probes(read_probes()))


def test_no_probe_is_asked_twice() -> None:
    lines = [probe.line for probe in read_probes()]
    assert sorted(lines) == sorted(set(lines))


def test_few_differ_for_no_stated_reason(results: list[Result]) -> None:
    problems = [
        f"{each.probe.line}\n  {each.problem}\n  {each.theirs}\n  {each.ours}" for each in results if each.problem
    ]
    assert len(problems) <= OPEN, "\n".join(problems)


def test_most_is_the_same(results: list[Result]) -> None:
    assert sum(each.status == "same" for each in results) >= THE_SAME


def test_the_page_is_what_the_probes_give(results: list[Result]) -> None:
    """But for a few lines: the processors of machines round differently, and so do the two sides."""
    written = generated(PAGE.read_text(encoding="utf-8")).splitlines()
    given = render(results).strip().splitlines()
    changed = [line for line in difflib.ndiff(written, given) if line[:2] in ("- ", "+ ")]
    assert len(changed) <= ROUNDED, "run python -m tests.parity.probes --write\n" + "\n".join(changed)
