"""The harness finds what is planted: each kind of fault, at its index, and nothing where there is none."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch

from .engine import (
    FIFO,
    FOLDER,
    LOOP,
    Files,
    Format,
    Outcome,
    Unsound,
    Verdict,
    check_finite,
    check_within,
    judge,
    write,
)
from .mutations import change_bytes, change_json, mutate_folder, mutate_lines, mutate_picture, mutate_safetensors
from .pool import Limits, run
from .report import Report

ROOT = Path(__file__).parents[2]
LIMITS = Limits(seconds=0.5, memory=2 * 10**9)


class OwnError(Exception):
    """The error base of the planted reader."""


class Panic(BaseException):
    """As of Rust."""


def planted(folder: Path) -> None:
    """A reader with a fault for each content of its file."""
    kind = (folder / "file").read_text(encoding="ascii")
    if kind == "refused":
        raise OwnError("no")
    if kind == "foreign":
        raise KeyError("names")
    if kind == "panic":
        raise Panic
    if kind == "recursion":
        planted_recursion(0)
    if kind == "unsound":
        raise Unsound("NaN")
    if kind == "hang":
        while True:
            pass
    if kind == "pipe":
        (folder / "pipe").read_bytes()
    if kind == "memory":
        bytearray(10**11)
    if kind == "hidden memory":
        try:
            torch.zeros(10**11)
        except RuntimeError as error:
            raise OwnError("can't be read") from error
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "abort":
        os.abort()
    if kind == "exit":
        sys.exit(3)
    if kind == "gone":
        os._exit(3)


def planted_recursion(depth: int) -> None:
    """Never ends."""
    planted_recursion(depth + 1)


EXPECTED = {
    "accepted": Outcome.ACCEPTED,
    "refused": Outcome.REFUSED,
    "foreign": Outcome.FOREIGN,
    "panic": Outcome.FOREIGN,
    "recursion": Outcome.FOREIGN,
    "exit": Outcome.FOREIGN,
    "unsound": Outcome.UNSOUND,
    "hang": Outcome.HANG,
    "pipe": Outcome.HANG,
    "memory": Outcome.MEMORY,
    "hidden memory": Outcome.MEMORY,
    "segfault": Outcome.CRASH,
    "abort": Outcome.CRASH,
    "gone": Outcome.CRASH,
}
# Good inputs between the bad ones: a worker that died doesn't take them with it.
KINDS = [kind for bad in EXPECTED for kind in (bad, "accepted")]


def choose(random: Random, files: Files) -> list[str]:
    """One of the kinds; which one, the name of the random state says."""
    raise AssertionError("the planted reader is told by the name of the random state alone")


class Planted(Format):
    """A format whose inputs are the kinds, in order."""

    def input(self, index: int) -> tuple[Files, list[str]]:
        """The kind of an index."""
        return {"file": KINDS[index].encode(), "pipe": FIFO}, [KINDS[index]]


def make_planted() -> Format:
    return Planted("planted", dict, choose, planted, OwnError, "planted")


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    found: list[Verdict] = []
    run([(make_planted(), 0, len(KINDS))], lambda verdict, _: found.append(verdict), workers=1, limits=LIMITS)
    return found


def test_every_input_has_one_verdict_in_order(verdicts: list[Verdict]) -> None:
    assert [verdict.index for verdict in verdicts] == list(range(len(KINDS)))


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_planted_fault_is_found(kind: str, verdicts: list[Verdict]) -> None:
    assert {verdict.outcome for verdict in verdicts if verdict.notes == [kind]} == {EXPECTED[kind]}


def test_a_verdict_names_the_error_and_the_place(verdicts: list[Verdict]) -> None:
    by_kind = {verdict.notes[0]: verdict for verdict in verdicts}
    assert by_kind["foreign"].error == "KeyError"
    assert by_kind["foreign"].place.endswith("test_engine.py:planted")
    assert by_kind["segfault"].error == "SIGSEGV"
    assert by_kind["hang"].place.endswith("test_engine.py:planted"), "where a hang is, is written down"


def test_a_fault_is_reported_once_with_its_simplest_input(verdicts: list[Verdict], tmp_path: Path) -> None:
    report = Report()
    for verdict in [*verdicts, *verdicts]:
        report.add(verdict, 10**6)
    assert report.total == 2 * len(KINDS)
    assert report.num_findings == 2 * sum(outcome.is_finding for outcome in EXPECTED.values())
    assert all(fault.count % 2 == 0 for fault in report.faults.values())
    assert "show planted 4" in report.text()
    report.write_json(tmp_path / "report.json")
    assert (tmp_path / "report.json").stat().st_size > 0


def test_a_run_that_is_stopped_begins_nothing_more() -> None:
    found: list[Verdict] = []
    run([(make_planted(), 0, 4)], lambda verdict, _: found.append(verdict), stop_at=time.monotonic() - 1)
    assert found == []


def test_what_may_stand_for_a_file_is_written(tmp_path: Path) -> None:
    write({"a/b": b"1", "folder": FOLDER, "loop": LOOP, "pipe": FIFO}, tmp_path)
    assert (tmp_path / "a" / "b").read_bytes() == b"1"
    assert (tmp_path / "folder").is_dir()
    assert (tmp_path / "loop").is_symlink()
    assert (tmp_path / "pipe").is_fifo()


def test_unsound_values_are_told() -> None:
    check_finite("pixels", torch.ones(2), torch.tensor([1]))
    check_within("ids", [0, 3], 4)
    with pytest.raises(Unsound):
        check_finite("pixels", torch.tensor([1.0, float("nan")]))
    with pytest.raises(Unsound):
        check_within("ids", [0, 4], 4)


def test_a_folder_is_cleared_whatever_happens(tmp_path: Path) -> None:
    verdict = judge(make_planted(), KINDS.index("foreign"), tmp_path / "input")
    assert verdict.outcome is Outcome.FOREIGN
    assert not (tmp_path / "input").exists()


JSON = b'{"name": "a", "size": 16, "list": [1, 2, {"deep": true}], "ratio": 0.5}'


def test_a_mutation_is_a_function_of_its_random_state() -> None:
    for number in range(300):
        assert change_json(Random(number), JSON) == change_json(Random(number), JSON)
        assert change_bytes(Random(number), JSON) == change_bytes(Random(number), JSON)


def test_mutations_change_something_nearly_always() -> None:
    changed = [change_json(Random(number), JSON)[0] != JSON for number in range(300)]
    assert sum(changed) > 280


def test_mutations_never_fail_on_what_they_made_themselves() -> None:
    data = JSON
    for number in range(200):
        try:
            data, _ = change_json(Random(number), data)
        except (ValueError, RecursionError):  # it isn't JSON any more
            data = JSON
    lines: Files = {"log": b'{"step": 1}\n{"step": 2}\n'}
    folder: Files = {"a": b"1", "b": b"2"}
    tensors = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
    for number in range(200):
        mutate_lines("log")(Random(number), dict(lines))
        mutate_folder()(Random(number), dict(folder))
        mutate_picture("a", lambda: {"any": b"\x89PNG\r\n\x1a\n" + bytes(40)})(Random(number), dict(folder))
        file: Files = {"t": len(tensors).to_bytes(8, "little") + tensors + bytes(8)}
        mutate_safetensors("t", json_tensors=["a"], json_metadata=["b"])(Random(number), file)


def digests() -> dict[str, str]:
    """Return a digest of the first inputs of some formats of each kind."""
    from .formats import FORMATS

    prefixes = ("vq-codes", "vq-pic", "text-", "core-config", "core-shard", "core-state")
    found = {}
    for each in FORMATS:
        if each.name.startswith(prefixes):
            inputs = [(sorted(files.items()), notes) for files, notes in map(each.input, range(12))]
            found[each.name] = hashlib.sha256(repr(inputs).encode()).hexdigest()
    return found


def test_an_input_is_the_same_in_every_process() -> None:
    # Its hashes of strings are others than this one's, whose seed is drawn unless it is given.
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from tests.fuzz.test_engine import digests; print(digests())"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.environ.get("PYTHONPATH", "") + f":{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = digests()
    assert len(here) > 8
    assert ast.literal_eval(done.stdout) == here
