"""Pictures encoded in several processes: the same file, whatever their number and whichever of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chameleon_vq import ImageTokenizer, encoding_job, read_codes
from chameleon_vq.encoding_job import EncodingOptions, encode_in_processes

COUNT = 23
BAD = (4, 11, 12)


@pytest.fixture
def pictures(tmp_path: Path, tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch) -> dict[Path, str]:
    """Pictures in units of five, of which some can't be read, beside the tokenizer in ``tok``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoding_job, "UNIT_SIZE", 5)
    tokenizer.save_pretrained("tok")
    Path("photos").mkdir()
    for number in range(COUNT):
        values_HWC = np.random.default_rng(number).integers(0, 256, (40, 36, 3), dtype=np.uint8)
        PIL.Image.fromarray(values_HWC).save(f"photos/{number:02}.png")
    for number in BAD:
        Path(f"photos/{number:02}.png").write_bytes(b"no picture")
    return {path: path.name for path in sorted(Path("photos").iterdir())}


@pytest.mark.parametrize("workers", [1, 3])
def test_the_file_is_that_of_one_process(workers: int, pictures: dict[Path, str], tokenizer: ImageTokenizer) -> None:
    done: list[int] = []
    left_out = encode_in_processes(
        pictures, tokenizer, "codes", EncodingOptions("tok"), workers=workers, on_done=done.append
    )
    assert sum(done) == COUNT
    assert [reason.partition(" ")[0][-6:] for reason in left_out] == [f"{number:02}.png" for number in BAD]
    file = read_codes("codes")
    assert file.names == tuple(f"{number:02}.png" for number in range(COUNT) if number not in BAD)
    expected = tokenizer.encode([path for path in pictures if path.name in file.names])
    assert file.codes_BN.tolist() == expected.tolist()
    assert sorted(os.listdir()) == ["codes", "photos", "tok"]


def test_a_job_that_was_killed_continues(pictures: dict[Path, str], tokenizer: ImageTokenizer) -> None:
    code = """
import os, pathlib, signal
from chameleon_vq import ImageTokenizer, encoding_job

encoding_job.UNIT_SIZE = 5
named = {path: path.name for path in sorted(pathlib.Path("photos").iterdir())}
encoding_job.encode_in_processes(
    named, ImageTokenizer.from_pretrained("tok"), "codes", encoding_job.EncodingOptions("tok"),
    workers=1, on_done=lambda _: os.kill(os.getpid(), signal.SIGKILL),
)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == -signal.SIGKILL
    assert not Path("codes").exists()
    first = Path(".codes.units", "00000.json").stat().st_mtime_ns
    seen: list[int] = []

    def see(_: int) -> None:
        seen.append(Path(".codes.units", "00000.json").stat().st_mtime_ns)

    encode_in_processes(pictures, tokenizer, "codes", EncodingOptions("tok"), workers=2, on_done=see)
    assert set(seen) == {first}, "what was done isn't done again"
    assert len(read_codes("codes").names) == COUNT - len(BAD)


def test_another_job_begins_anew(pictures: dict[Path, str], tokenizer: ImageTokenizer) -> None:
    Path(".codes.units").mkdir()
    Path(".codes.units", "job.json").write_text('{"pictures": "others"}')
    Path(".codes.units", "00000.json").write_text('{"pictures": 0, "left_out": []}')
    encode_in_processes(pictures, tokenizer, "codes", EncodingOptions("tok"), workers=1, on_done=lambda _: None)
    assert len(read_codes("codes").names) == COUNT - len(BAD)


def test_a_picture_that_ends_its_process_is_left_out(
    pictures: dict[Path, str], tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = encoding_job._begin

    def begin_late(folder: Path, job: dict[str, object]) -> None:
        begin(folder, job)
        (folder / "00001.reading").write_text("2\n2\n2")

    monkeypatch.setattr(encoding_job, "_begin", begin_late)
    left_out = encode_in_processes(
        pictures, tokenizer, "codes", EncodingOptions("tok"), workers=1, on_done=lambda _: None
    )
    assert [each for each in left_out if "07.png: reading it ended the process, 3 times" in each]
    assert "07.png" not in read_codes("codes").names


def test_the_command_takes_workers(pictures: dict[Path, str], tokenizer: ImageTokenizer) -> None:
    testing = pytest.importorskip("typer.testing")
    app = pytest.importorskip("chameleon_vq.cli.app").app
    result = testing.CliRunner().invoke(app, ["encode", "photos", "-t", "tok", "-o", "codes", "--workers", "2"])
    assert result.exit_code == 1, result.output
    assert len(read_codes("codes").names) == COUNT - len(BAD)
