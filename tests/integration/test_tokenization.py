"""Data sets of captioned pictures become token shards: every good picture once, whatever dies on the way."""

from __future__ import annotations

import json
import multiprocessing.forkserver
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chameleon_core import Chameleon, ConfigError, FileFormatError, MissingFileError
from chameleon_core.cli.app import app
from chameleon_core.tokenization import tokenize_dataset
from chameleon_core.training import DatasetError, TokenDataset, TokenDatasetWriter
from chameleon_text import Image, Text

from .captioned import content, keys, killing, png, processes, refused, write_folder, write_tar

POISON = (3, 17, 18, 40)
COUNT = 48


def workers() -> list[int]:
    """The processes that do the work here."""
    server = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return processes(lambda parent, _: parent == server)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pictures"
    write_folder(path, COUNT, POISON)
    return path


@pytest.fixture(scope="module")
def undisturbed(folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one worker makes of them."""
    output = tmp_path_factory.mktemp("undisturbed")
    tokenize_dataset(folder, [pictures], output, workers=1, unit_size=6)
    return content(output)


def test_a_document_is_its_picture_and_its_caption(
    folder: Path, chameleon: Chameleon, pictures: Path, tmp_path: Path
) -> None:
    done = tokenize_dataset(folder, [pictures], tmp_path, workers=2, unit_size=20)
    data = TokenDataset(tmp_path)
    assert (done.documents, done.refused, done.ids) == (COUNT - len(POISON), len(POISON), data.num_tokens)
    orders = set()
    for document in data:
        *ids, end = document.ids.tolist()
        assert end == chameleon.layout.eos_id
        caption = Text(f"picture {int(document.key[:5])}")
        codes = chameleon.image_tokenizer.encode([pictures / document.key])[0].tolist()
        read = chameleon.processor.decode_document(ids)
        assert sorted(read, key=repr) == sorted([caption, Image(codes=codes)], key=repr)
        orders.add(isinstance(read[0], Text))
    assert orders == {True, False}


@pytest.mark.parametrize("order", ["caption-first", "picture-first", "picture-only"])
def test_the_order_is_the_one_that_was_asked_for(
    order: str, folder: Path, chameleon: Chameleon, tmp_path: Path
) -> None:
    write_folder(tmp_path / "in", 6, ())
    tokenize_dataset(folder, [tmp_path / "in"], tmp_path / "out", workers=1, order=order)
    expected = {"caption-first": [Text, Image], "picture-first": [Image, Text], "picture-only": [Image]}[order]
    for document in TokenDataset(tmp_path / "out"):
        assert list(map(type, chameleon.processor.decode_document(document.ids[:-1].tolist()))) == expected


def test_killed_workers_and_their_number_change_nothing(
    folder: Path, pictures: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with killing(workers, kills=5, seed=0) as killed:
        tokenize_dataset(folder, [pictures], tmp_path, workers=3, unit_size=6, batch_size=16)
    assert killed
    assert content(tmp_path) == undisturbed
    assert keys(tmp_path) == [f"{number:05}.png" for number in range(COUNT) if number not in POISON]
    assert list(refused(tmp_path)) == [f"{number:05}.png" for number in POISON]


def test_a_job_that_was_killed_continues_and_adds_nothing_twice(
    folder: Path, pictures: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    def work(**options: Any) -> None:
        tokenize_dataset(folder, [pictures], tmp_path, unit_size=6, workers=2, **options)

    code = f"""
import os, signal
from chameleon_core.tokenization import tokenize_dataset

def progress(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

tokenize_dataset({str(folder)!r}, [{str(pictures)!r}], {str(tmp_path)!r}, unit_size=6, workers=2, progress=progress)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == -signal.SIGKILL
    before = len(list((tmp_path / "units").glob("*.json")))
    assert before >= 3
    for read in (lambda: TokenDataset(tmp_path), lambda: TokenDatasetWriter(tmp_path, tokenizer_hash="", vocab_size=8)):
        with pytest.raises(DatasetError, match="isn't complete"):
            read()
    steps: list[tuple[int, int]] = []
    work(progress=lambda done, total: steps.append((done, total)))
    assert steps[0][0] >= before, "what was done isn't done again"
    assert steps[-1] == (8, 8)
    assert content(tmp_path) == undisturbed
    work()
    assert content(tmp_path) == undisturbed


def test_a_picture_that_ends_its_process_is_refused(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", 6, ())
    journal = tmp_path / "out" / "units" / "00000.reading"
    journal.parent.mkdir(parents=True)
    journal.write_text("0.\n4\n0.\n1.\n2\n4\n0.\n4")  # three processes died at 4, one at 2
    tokenize_dataset(folder, [tmp_path / "in"], tmp_path / "out", workers=1)
    assert refused(tmp_path / "out") == {"00004.png": "reading it ended the process, 3 times"}
    assert len(keys(tmp_path / "out")) == 5


def test_poison_of_every_kind_is_listed_with_its_reason(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_folder(source, 1, ())
    bad = {
        "cut.png": (png(1)[:70], "a caption", "can't be decoded"),
        "empty.png": (b"", "a caption", "0 bytes"),
        "html.png": (b"<html>", "a caption", "not a picture of a format"),
        "bomb.png": (png(1)[:16] + b"\x7f\xff\xff\xff" * 2 + png(1)[24:], "a caption", "picture|pixels"),
        "strip.png": (png(1, side=1), None, "has no caption: .*strip.txt doesn't exist"),
        "silent.png": (png(2), " ", "caption is empty"),
        "latin.png": (png(3), b"\xe9t\xe9", "caption isn't UTF-8"),
        "long.png": (png(4), "a cat " * 400, r"has [\d,]+ ids, expected at most 256"),
    }
    for name, (data, caption, _) in bad.items():
        (source / name).write_bytes(data)
        if caption is not None:
            (source / name).with_suffix(".txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    tokenize_dataset(folder, [source], tmp_path / "out", workers=1)
    reasons = refused(tmp_path / "out")
    assert reasons.keys() == bad.keys()
    for name, (*_, reason) in bad.items():
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(reasons[name])
    assert keys(tmp_path / "out") == ["00000.png"]


def samples(*numbers: int) -> list[tuple[str, bytes]]:
    """The files of samples in a tar shard."""
    return [
        pair
        for number in numbers
        for pair in ((f"a/{number}.png", png(number)), (f"a/{number}.txt", f"picture {number}".encode()))
    ]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_tar_shards_are_read(name: str, folder: Path, tmp_path: Path) -> None:
    files = [*samples(0, 1), ("a/2.x.PNG", png(2)), ("a/2.json", b"{}"), ("a/2.txt", b"two"), ("a/3.txt", b"alone")]
    write_tar(tmp_path / "in" / name, [*files, ("a/4.png", png(4))], mode="w" if name == "a.tar" else "w:gz")
    tokenize_dataset(folder, [tmp_path / "in"], tmp_path / "out", workers=1)
    assert keys(tmp_path / "out") == [f"{name}/a/{number}" for number in range(3)]
    assert refused(tmp_path / "out") == {
        f"{name}/a/3": "it has no picture, but txt",
        f"{name}/a/4": "it has no caption 'txt', but png",
    }


def test_a_damaged_tar_shard_gives_what_is_whole_and_is_listed(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("cut", "ended", "header"):
        write_tar(source / f"{name}.tar", samples(0, 1, 2))
    whole = (source / "cut.tar").read_bytes()
    third = whole.index(b"a/2.png")
    (source / "cut.tar").write_bytes(whole[: third + 700])
    (source / "ended.tar").write_bytes(whole[:third])
    (source / "header.tar").write_bytes(whole[:third] + b"\xff" * 512 + whole[third + 512 :])
    (source / "empty.tar").write_bytes(b"")
    (source / "none.tar").write_bytes(b"\0" * 10240)
    write_tar(source / "twice.tar", [*samples(0, 1), ("a/1.png", png(9)), ("a/1.txt", b"again")])
    tokenize_dataset(folder, [source], tmp_path / "out", workers=1)
    reasons = refused(tmp_path / "out")
    assert reasons.keys() == {"cut.tar", "ended.tar", "header.tar", "empty.tar", "twice.tar/a/1"}
    whole_ones = {f"{name}.tar/a/{number}" for name in ("cut", "ended", "header", "twice") for number in range(2)}
    assert set(keys(tmp_path / "out")) == whole_ones


def test_parquet_files_are_read(folder: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "in"
    source.mkdir()
    pictures = [png(0), png(1), None, b"no picture", png(4), png(5)]
    captions = ["zero", None, "two", "three", "four", "five"]
    table = pyarrow.table({"image": [{"bytes": each, "path": ""} for each in pictures], "text": captions})
    parquet.write_table(table, source / "of-datasets.parquet", row_group_size=4)
    parquet.write_table(pyarrow.table({"image": pictures, "text": captions}), source / "bytes.parquet")
    (source / "damaged.parquet").write_bytes((source / "bytes.parquet").read_bytes()[:-20])
    done = tokenize_dataset(folder, [source], tmp_path / "out", workers=1)
    assert keys(tmp_path / "out") == [f"{name}.parquet/{row}" for name in ("bytes", "of-datasets") for row in (0, 4, 5)]
    bad = [f"{name}.parquet/{row}" for name in ("bytes", "of-datasets") for row in (1, 2, 3)]
    assert refused(tmp_path / "out").keys() == {*bad, "damaged.parquet/0"}
    assert done.documents == 6
    with pytest.raises(ConfigError, match="has no column 'caption'; it has image, text"):
        tokenize_dataset(folder, [source], tmp_path / "other", workers=1, caption_field="caption")


def test_texts_of_parquet_files_that_are_not_utf_8_are_listed_alone(folder: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "source"
    source.mkdir()
    broken = pyarrow.array([b"a red apple", b"\x80", b"a leaf"]).view(pyarrow.string())
    names = pyarrow.array([b"1.png", b"2.png", b"\xff"]).view(pyarrow.string())
    pictures = pyarrow.StructArray.from_arrays(
        [pyarrow.array([png(each) for each in (1, 2, 3)]), names], ["bytes", "path"]
    )
    parquet.write_table(pyarrow.table({"image": pictures, "text": broken}), source / "texts.parquet")
    tokenize_dataset(folder, [source], tmp_path / "out")
    assert keys(tmp_path / "out") == ["texts.parquet/0", "texts.parquet/2"]
    assert "the caption isn't UTF-8" in str(refused(tmp_path / "out")["texts.parquet/1"])


def test_captions_come_from_metadata_too(folder: Path, chameleon: Chameleon, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "b").mkdir(parents=True)
    for name in ("0.png", "1.png", "b/2.png"):
        (source / name).write_bytes(png(int(name[-5])))
    lines = [{"file_name": "0.png", "text": "zero"}, {"file_name": "b/2.png", "text": "two"}]
    (source / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (source / "notes.doc").write_bytes(b"")
    done = tokenize_dataset(folder, [source], tmp_path / "out", workers=1)
    texts = [chameleon.processor.decode_document(each.ids.tolist()) for each in done.open()]
    assert [next(part.text for part in text if isinstance(part, Text)) for text in texts] == ["zero", "two"]
    assert refused(tmp_path / "out").keys() == {"1.png"}
    assert [path for path, _ in done.skipped] == [str(source / "notes.doc")]


def test_what_can_not_be_done_is_refused_before_any_work(folder: Path, pictures: Path, tmp_path: Path) -> None:
    def fails(
        error: type[Exception], words: str, *sources: Path, output: Path = tmp_path / "out", **options: Any
    ) -> None:
        with pytest.raises(error, match=words):
            tokenize_dataset(folder, sources, output, **{"workers": 1, **options})

    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    write_folder(tmp_path / "other" / "pictures", 2, ())
    (tmp_path / "a.zip").write_bytes(b"")
    fails(MissingFileError, "there is no", tmp_path / "nothing")
    fails(FileFormatError, "there are no pictures", tmp_path / "empty")
    fails(FileFormatError, "is not a source of pictures", tmp_path / "a.zip")
    fails(ConfigError, "several sources have files of one name: 00000.png", pictures, tmp_path / "other" / "pictures")
    fails(ConfigError, "workers must be an integer ≥ 0", pictures, workers=-1)
    fails(ConfigError, "workers must be an integer ≥ 1", pictures, workers=0, ray="local")
    fails(ConfigError, "unit_size", pictures, unit_sise=3)
    assert not (tmp_path / "out").exists()
    used = tmp_path / "used"
    with TokenDatasetWriter(used, tokenizer_hash="", vocab_size=8):
        pass
    fails(DatasetError, "has a dataset already", pictures, output=used)


def test_a_folder_has_one_job(folder: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    write_folder(source, 3, ())
    tokenize_dataset(folder, [source], output, workers=1)
    with pytest.raises(DatasetError, match=r"other options \(order 'mixed', now 'picture-only'\)"):
        tokenize_dataset(folder, [source], output, workers=1, order="picture-only")
    write_folder(source / "more", 1, ())
    with pytest.raises(DatasetError, match="other sources: files were added"):
        tokenize_dataset(folder, [source], output, workers=1)


def test_the_command_says_what_it_did(folder: Path, pictures: Path, tmp_path: Path) -> None:
    command = ["tokenize-dataset", str(folder), str(pictures), "-o", str(tmp_path), "--workers", "1"]
    for _ in range(2):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert f"{COUNT - len(POISON)} documents" in result.stdout
        assert "refused.jsonl" in result.stderr
