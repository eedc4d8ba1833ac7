"""Reading ahead: in order, bounded, and without harm from what can't be read or from whoever stops early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest
import torch

from chameleon_vq import ChameleonVQError, ConfigError, ImageTokenizer
from chameleon_vq.pictures import batch_of
from chameleon_vq.read_ahead import THREADS, read_ahead


def test_results_come_in_order_whatever_takes_longer() -> None:
    second_is_read = threading.Event()

    def read(number: int) -> int:
        if number == 0:
            assert second_is_read.wait(60)
        elif number == 1:
            second_is_read.set()
        return number * 10

    assert [(source, result()) for source, result in read_ahead(read, range(7), ahead=3)] == [
        (number, number * 10) for number in range(7)
    ]


def test_only_so_many_are_read_ahead_and_only_in_the_caller_s_turn() -> None:
    asked: list[tuple[int, str]] = []

    def sources() -> Iterator[int]:
        for number in range(100):
            asked.append((number, threading.current_thread().name))
            yield number

    reading = read_ahead(lambda number: number, sources(), ahead=4)
    for number in range(3):
        assert next(reading)[0] == number
        assert len(asked) == number + 5
    reading.close()
    assert {thread for _, thread in asked} == {threading.current_thread().name}


def test_an_error_is_raised_where_its_result_is_asked_for() -> None:
    found: list[object] = []
    for _, result in read_ahead(lambda number: 1 // number, [1, 0, 1], ahead=2):
        try:
            found.append(result())
        except ZeroDivisionError as error:
            found.append(type(error))
    assert found == [1, ZeroDivisionError, 1]


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, GeneratorExit])
def test_whoever_stops_waits_for_nothing_and_the_rest_is_not_read(stopped: type[BaseException]) -> None:
    release, read = threading.Event(), list[int]()

    def reads(number: int) -> None:
        if number:
            release.wait(60)
        read.append(number)

    reading = read_ahead(reads, range(50), ahead=10)
    next(reading)[1]()
    with pytest.raises(stopped):
        reading.throw(stopped)
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("chameleon-vq-read"):
            thread.join(60)
    assert len(read) <= 1 + THREADS


def test_files_give_the_codes_of_their_pictures_in_any_batches(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(11)]
    for number, path in enumerate(paths):
        PIL.Image.new("RGB", (8 + 5 * number, 40), (20 * number, 90, 255 - 20 * number)).save(path)
    paths[4].write_bytes(b"no picture")
    expected = [(path, tokenizer.encode(path)[0]) for path in paths if path != paths[4]]
    for batch_size in (1, 3, None):
        failed: list[tuple[Path, ChameleonVQError]] = []
        found = list(tokenizer.encode_files(paths, batch_size=batch_size, on_error=lambda *each: failed.append(each)))  # noqa: B023
        assert [path for path, _ in found] == [path for path, _ in expected]
        assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(found, expected, strict=True))
        assert [path for path, _ in failed] == [paths[4]]


def test_by_default_as_many_pictures_are_taken_together_as_have_a_million_pixels() -> None:
    assert [batch_of(None, side**2) for side in (0, 64, 256, 512, 768, 4096)] == [16, 16, 16, 4, 1, 1]
    assert batch_of(7, 512**2) == 7
    for wrong in (0, 2.0, "4"):
        with pytest.raises(ConfigError, match="expected an integer ≥ 1"):
            batch_of(wrong, 1)
