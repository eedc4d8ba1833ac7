"""Units of work in processes that die: each is done, an error arrives, and what always kills is given up."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from chameleon_core import FileFormatError
from chameleon_core._workers import MOST_DEATHS, Journal, run_units
from chameleon_core.errors import WorkerError

WORK = """
import os, signal

from chameleon_core.errors import FileFormatError


def work(folder, unit):
    deaths, done = unit
    before = len(list(folder.glob(f"{done}.*.death")))
    if before < deaths:
        (folder / f"{done}.{before}.death").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if done == "bad":
        raise FileFormatError("it is bad.")
    if done == "odd":
        raise Odd(1, 2)
    with open(folder / done, "a") as file:
        file.write("done\\n")


class Odd(Exception):
    def __init__(self, first, second):
        super().__init__("odd")
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("work_of_a_test")


def made(work: ModuleType, folder: Path) -> Callable[[], Callable[[tuple[int, str]], None]]:
    return functools.partial(functools.partial, work.work, folder)


@pytest.mark.parametrize("workers", [1, 3])
def test_each_unit_is_done_once_whatever_dies(workers: int, work: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    units = [(2 if number == 1 else number % 4 == 2, f"unit-{number}") for number in range(7)]
    done: list[tuple[int, str]] = []
    run_units(units, made(work, output), workers=workers, on_done=done.append)
    assert sorted(done) == sorted(units)
    assert {path.name: path.read_text() for path in output.glob("unit-?")} == {name: "done\n" for _, name in units}


def test_an_error_arrives_as_it_was_raised(work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="it is bad") as caught:
        run_units([(0, "bad")], made(work, tmp_path), workers=2, on_done=print)
    assert "In a worker process:" in caught.value.__notes__[0]
    with pytest.raises(WorkerError, match="Odd: odd"):
        run_units([(0, "odd")], made(work, tmp_path), workers=2, on_done=print)


def test_a_unit_that_kills_every_process_is_given_up(work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=f"{MOST_DEATHS} processes ended at the same work"):
        run_units([(99, "always")], made(work, tmp_path), workers=1, on_done=print)


def test_no_process_is_left(work: ModuleType, tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    run_units([(0, "a"), (0, "b")], made(work, tmp_path), workers=2, on_done=lambda _: time.sleep(0.01))
    assert set(multiprocessing.active_children()) <= before


def test_a_journal_tells_what_was_being_read(tmp_path: Path) -> None:
    path = tmp_path / "units" / "journal"
    with Journal(path) as journal:
        with journal.reading(0):
            pass
        with pytest.raises(ValueError, match="no picture"), journal.reading(1):
            raise ValueError("no picture")
    for deaths in (1, 2):
        with path.open("ab") as file:
            file.write(b"12")  # and the process died
        with Journal(path) as journal:
            assert [journal.deaths(item) for item in (0, 1, 2, 12)] == [0, 0, 0, deaths]
            with journal.reading(0):
                pass
