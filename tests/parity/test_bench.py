"""The benchmark runs: its rows' two sides agree at a tiny size, and what goes wrong is said.

Figures mean nothing here. The rows that start several processes are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = (
    "vq-*",
    "picture-*",
    "decode-*",
    "prefill-*",
    "small-*",
    "context-*",
    "guided-*",
    "embedded-c*",
    "training-*",
    "load-bfloat16",
    "help-vq",
)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench

    return bench


@pytest.fixture
def fake_row(bench: Any) -> Callable[..., Any]:
    """Makes rows of given figures."""
    row = sys.modules["rows.row"]

    def make(name: str = "fake", *, error: Exception | None = None, goal: Any = None, **figures: float) -> Any:
        def compare() -> None:
            if error is not None:
                raise error

        def prepare(scale: object) -> Any:
            theirs, limit = (
                None if figures.get(side) is None else lambda side=side: figures[side] for side in ("theirs", "limit")
            )
            found = None if limit is None else row.Limit("nothing", limit)
            return row.Contest(lambda: figures.get("ours", 1.0), theirs, found, compare)

        return row.Row(name, "a fake", prepare, goal=goal or row.Goal())

    return make


def scales() -> Any:
    return sys.modules["rows.row"].Scale


def test_rows_run_at_a_tiny_size_with_equal_results(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "bench.py", "--tiny", "--threads", "1", "--json", str(out), "--rows", *ROWS]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert len(report["rows"]) > 20
    for row in report["rows"]:
        assert row["error"] is None
        assert row["name"] in done.stdout
        assert row["ours"]["median"] > 0
        assert (row["times_peer"] is None) == (row["peer"] is None)
    assert {"read", "gemm float32", "convolution bfloat16"} <= report["limits"].keys()
    assert report["machine"]["processor"]
    assert report["machine"]["versions"]["transformers"]
    assert report["load"].keys() == {"begin", "end"}


def test_names_of_rows_are_unique_and_short(bench: Any) -> None:
    names = [row.name for row in bench.ROWS]
    assert len(names) == len(set(names)) > 30
    assert all(max(map(len, (row.name, row.unit))) < 28 for row in bench.ROWS)
    assert next(row.name for row in bench.chosen(["load-*", "small-greedy"])) == "small-greedy"


def test_an_unknown_row_is_refused_with_the_closest_name(bench: Any) -> None:
    with pytest.raises(KeyError, match=r"no row 'smal-greedy'.*Did you mean 'small-greedy'"):
        bench.chosen(["smal-greedy"])


def test_a_failing_row_says_why_and_the_others_are_measured(
    bench: Any, fake_row: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    different = sys.modules["rows.row"].DifferentResultsError("logits differ by 0.5.")
    rows = [fake_row("bad", error=different), fake_row("good", ours=2.0, theirs=6.0, limit=1.0)]
    assert bench.run(rows, scales().TINY, tmp_path / "out.json") == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("bad") and "failed: DifferentResultsError: logits differ by 0.5." in line for line in lines
    )
    assert any(line.startswith("good") and "3.00×" in line and "0.50" in line for line in lines)
    assert "failed: bad" in lines
    bad, good = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["rows"]
    assert (bad["ours"], bad["error"]) == (None, "DifferentResultsError: logits differ by 0.5.")
    assert (good["times_peer"], good["share_of_limit"]) == (3.0, 0.5)
    assert bench.run(rows[1:], scales().TINY, None) == 0


def test_the_sides_take_turns(bench: Any) -> None:
    row, order = sys.modules["rows.row"], []

    def side(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or 1.0

    contest = row.Contest(side("ours"), side("theirs"), row.Limit("limit", side("limit")))
    measured = sys.modules["rows.measuring"].measure(row.Row("r", "", lambda _: contest), scales().QUICK)
    # Once to warm up, then the repeats.
    assert order == ["ours", "theirs", "limit"] * 3
    assert measured.ours.values == [1.0] * 2


def test_goals_are_judged(bench: Any, fake_row: Callable[..., Any]) -> None:
    goal = sys.modules["rows.row"].Goal
    measure, line = sys.modules["rows.measuring"].measure, sys.modules["rows.report"].line
    for goals, missed in (
        (goal(peer=2.9, limit=0.4, figure=2.5, over_limit=1.5), []),
        (goal(peer=3.1), ["peer"]),
        (goal(limit=0.6), ["limit"]),
        (goal(figure=1.9), ["figure"]),
        (goal(over_limit=0.9), ["figure over limit"]),
    ):
        measured = measure(fake_row(ours=2.0, theirs=6.0, limit=1.0, goal=goals), scales().FULL, seconds=0)
        assert measured.missed == missed
        assert ("missed" in line(measured, scales().FULL)) == bool(missed)
        assert "missed" not in line(measured, scales().QUICK)


def test_a_disturbed_row_says_so(bench: Any, fake_row: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    measuring, line = sys.modules["rows.measuring"], sys.modules["rows.report"].line
    for busy, disturbed in (((100.0, 100.0), False), ((100.0, 160.0), True), (None, False)):
        seconds = iter(busy or (None, None))
        monkeypatch.setattr(measuring, "busy_seconds", lambda seconds=seconds: next(seconds))
        measured = measuring.measure(fake_row(), scales().TINY)
        assert measured.is_disturbed == disturbed
        assert ("DISTURBED: others took" in line(measured, scales().TINY)) == disturbed
        assert (measured.others is None) == (busy is None)


def test_own_processes_are_not_others(bench: Any) -> None:
    measuring = sys.modules["rows.measuring"]
    before = measuring.own_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert measuring.own_seconds() > before + 0.02


def test_differing_results_are_refused(bench: Any) -> None:
    import torch

    comparing = sys.modules["rows.comparing"]
    error = sys.modules["rows.row"].DifferentResultsError
    ours = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    comparing.require_near(ours * (1 + 5e-5), ours, torch.float32, "logits")
    with pytest.raises(error, match="logits differ by"):
        comparing.require_near(ours * (1 + 5e-4), ours, torch.float32, "logits")
    with pytest.raises(error, match="logits differ by nan"):
        comparing.require_near(ours * float("nan"), ours, torch.float32, "logits")
    logits_BTV = ours[None]
    masked_BTV = logits_BTV.index_fill(-1, torch.tensor([3]), torch.finfo(torch.float32).min)
    comparing.require_near_logits(masked_BTV, masked_BTV, torch.float32)
    with pytest.raises(error, match="logits differ by"):
        comparing.require_near_logits(masked_BTV.roll(1, -2), masked_BTV, torch.float32)
    with pytest.raises(error, match="masks of logits"):
        comparing.require_near_logits(logits_BTV, masked_BTV, torch.float32)
    comparing.require_likeliest(logits_BTV, logits_BTV.argmax(-1), torch.float32)
    with pytest.raises(error, match="below the likeliest"):
        comparing.require_likeliest(logits_BTV, logits_BTV.argmin(-1), torch.float32)
    comparing.require_in_nucleus(logits_BTV, logits_BTV.argmax(-1), 0.5, 1.0)
    with pytest.raises(error, match="outside the nucleus"):
        comparing.require_in_nucleus(logits_BTV, logits_BTV.argmin(-1), 0.5, 1.0)
    with pytest.raises(error, match="losses"):
        comparing.require_close_numbers(1.0, 1.1, 1e-2, "losses")
    with pytest.raises(error, match="pixels aren't equal"):
        comparing.require_equal(ours, ours + 1, "pixels")
