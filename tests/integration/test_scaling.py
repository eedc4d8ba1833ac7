"""Plans beside what small steps on gloo ranks take: bytes that the kernel sent, memory that was allocated."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import scaling_page
    finally:
        sys.path.remove(str(BENCHMARKS))
    return scaling_page


@pytest.mark.skipif(sys.platform != "linux", reason="sent bytes are counted by Linux's tcp_info")
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_send_and_hold_what_is_planned(page: ModuleType, ranks: int) -> None:
    cases = page.CASES[ranks]
    wrong = []
    for case, found in zip(cases, page.measure(ranks), strict=True):
        divided = page.planned(case).parallelism
        expected, memory = page.planned_bytes(case), page.planned_memory(case)
        wrong += [
            f"{divided}: a rank sent {sent:,}, planned {expected:,.0f}"
            for sent in found["sent"]
            if sent != pytest.approx(expected, rel=0.05)
        ]
        wrong += [
            f"{divided}: a rank held {held:,}, planned {memory:,.0f}"
            for held in found["memory"]
            if held != pytest.approx(memory, rel=0.1)
        ]
    assert not wrong, "\n".join(wrong)


def test_the_page_shows_the_cases_that_are_measured(page: ModuleType) -> None:
    import json

    listed = json.loads(page.MEASURED.read_text(encoding="utf-8"))
    shown = [{key: value for key, value in each.items() if key not in ("sent", "memory")} for each in listed]
    assert shown == [case for cases in page.CASES.values() for case in cases], (
        "run: python benchmarks/scaling_page.py --measure"
    )
