"""The page about scaling: its tables are what the script gives, and each efficiency fits one published run."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scaling_page

    return scaling_page


def test_the_page_has_the_tables_that_the_script_writes(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.with_tables(text) == text, "run: python benchmarks/scaling_page.py"


def test_a_page_without_a_block_is_refused(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8").replace("<!-- begin: published -->", "")
    with pytest.raises(ValueError, match="no block 'published'"):
        page.with_tables(text)


def test_the_plot_is_written_for_the_page(page: ModuleType) -> None:
    assert page.PLOT in page.PAGE.read_text(encoding="utf-8")
    assert page.PAGE.with_name(page.PLOT).read_text(encoding="utf-8").startswith("<?xml")


def test_an_efficiency_is_fitted_to_one_run_of_each_device(page: ModuleType) -> None:
    fitted = [each for each in page.PUBLISHED if each.fitted]
    assert {each.cluster.device.name for each in fitted} == {each.cluster.device.name for each in page.PUBLISHED}
    for each in fitted:
        # To two digits.
        assert each.plan().ids_per_second == pytest.approx(each.ids_per_second, rel=0.015)


def test_what_is_measured_is_within_what_the_page_promises(page: ModuleType) -> None:
    percents = re.findall(r"\| ([+-][\d.]+)% \|[^|]+\|[^|]+\| ([+-][\d.]+)% \|", page.measured_table())
    assert len(percents) == sum(map(len, page.CASES.values()))
    assert all(abs(float(sent)) <= 5 and abs(float(memory)) <= 10 for sent, memory in percents)
