"""``chameleon plan``: which model, which cluster, what it prints, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chameleon_core.cli.app import app
from chameleon_core.planning import CLUSTERS, SHAPES, Parallelism, Workload, fastest, plan_divisions, plan_training
from chameleon_core.testing import make_config, make_model


def run(*arguments: object, columns: int = 120) -> Any:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": str(columns)})


def facts(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(("name", "shape"), [("7b", SHAPES[0]), ("34B", SHAPES[1])])
def test_the_plans_are_those_of_the_library(name: str, shape: Any) -> None:
    found = facts(name, "--gpus", 64, "--device", "h100")
    plans = plan_divisions(shape, CLUSTERS["h100"], 64)
    assert [each["ids_per_second"] for each in found["plans"]] == [each.ids_per_second for each in plans]
    assert [each["memory"]["total"] for each in found["plans"]] == [each.memory.total for each in plans]
    best = fastest(plans)
    assert best is not None
    assert found["fastest"] == plans.index(best)


def test_each_option_reaches_the_plan() -> None:
    options = ("--device", "a100", "--tensor-parallel", 4, "--no-sequence-parallel", "--rows", 2, "--length", 256)
    found = facts("34b", "--gpus", 32, *options, "--passes", 3, "--no-checkpointing", "--ids", "1e12")
    work = Workload(rows=8, length=256, passes=3, recomputed=0.0)
    plan = plan_training(SHAPES[1], CLUSTERS["a100"], Parallelism(8, 4), work)
    (only,) = found["plans"]
    assert only["ids"] == plan.ids == 8 * 3 * 8 * 256
    assert only["sent"] == plan.sent
    assert only["time"]["total"] == plan.time.total
    assert only["memory"]["total"] == plan.memory.total
    assert only["gpu_hours"] == pytest.approx(1e12 / plan.ids_per_second / 3600)
    assert only["days"] == pytest.approx(only["gpu_hours"] / 32 / 24)


def test_without_sequence_parallelism_no_plan_has_it() -> None:
    found = facts("7b", "--gpus", 8, "--no-sequence-parallel")
    assert [each["parallelism"]["sequence"] for each in found["plans"]] == [False] * 4
    assert [each["parallelism"]["sequence"] for each in facts("7b", "--gpus", 8)["plans"]] == [False, True, True, True]


def test_the_report_shows_every_division_and_the_fastest() -> None:
    result = run("7b", "--gpus", 64, "--ids", "9.2e12")
    assert result.exit_code == 0
    for words in ("64 data × 1 tensor", "8 data × 8 tensor, sequence", "fastest that fits", "AdamW", "GPU hours"):
        assert words in result.stdout


def test_a_narrow_terminal_shows_all_of_it() -> None:
    result = run("7b", "--gpus", 64, columns=60)
    assert result.exit_code == 0
    assert all(len(line) <= 60 for line in result.stdout.splitlines())


def test_a_folder_with_a_config_alone_is_planned(tmp_path: Path) -> None:
    make_config().save_pretrained(tmp_path)
    found = facts(tmp_path, "--gpus", 2)
    assert found["model"]["hidden"] == make_config().hidden_size
    assert found["model"]["name"] == str(tmp_path)


@pytest.mark.filterwarnings("ignore::chameleon_core.InterchangeWarning")
def test_a_folder_of_another_format_is_planned(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "hf")
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "hf"), str(tmp_path / "meta"), "--format", "meta"])
    assert done.exit_code == 0, done.output
    assert facts(tmp_path / "meta", "--gpus", 1)["model"]["layers"] == model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("7b", "--gpus", 64, "--device", "h10"), "Did you mean 'h100'?"),
        (("7b", "--gpus", 64, "--tensor-parallel", 3), "64 GPUs can't be divided into groups of 3."),
        (("34b", "--gpus", 64, "--tensor-parallel", 16), "Choose one of 1, 2, 4, 8."),
        (("8b", "--gpus", 64), "The published shapes are 7b and 34b."),
    ],
    ids=["device", "groups", "heads", "model"],
)
def test_an_impossible_plan_is_an_error_in_one_line(arguments: tuple[object, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_plan_that_does_not_fit_says_what_to_do() -> None:
    result = run("34b", "--gpus", 1)
    assert result.exit_code == 1
    assert "too large" in result.stdout
    assert "Nothing fits: use more GPUs" in result.stdout
    assert json.loads(run("34b", "--gpus", 1, "--json").stdout)["fastest"] is None
