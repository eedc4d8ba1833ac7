"""Pictures with captions become a trained model in one command, which continues where it was stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from chameleon_core import Chameleon, FileFormatError
from chameleon_core.cli.app import app
from chameleon_core.tokenization import tokenize_dataset
from chameleon_core.training import StepReport, TokenDataset, Trainer, read_log
from chameleon_text import Image, Text

from .captioned import png, refused, write_tar

COUNT = 12
CAPTIONS = {f"{number:02}.png": f"picture {number}" for number in range(COUNT)}
RUN = (
    *("--workers", "0", "--steps", "14", "--batch-size", "4", "--learning-rate", "5e-3", "--dropout", "0"),
    *("--sequence-length", "32", "--save-every", "5", "--held-out", "2", "--samples", "1"),
)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``metadata.csv``."""
    path = tmp_path_factory.mktemp("data") / "pictures"
    path.mkdir()
    for number, name in enumerate(CAPTIONS):
        (path / name).write_bytes(png(number))
    write_csv(path / "metadata.csv", [("file_name", "text"), *CAPTIONS.items()])
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What a command that nothing disturbed has made, and what it printed."""
    output = tmp_path_factory.mktemp("jobs") / "whole"
    done = command("finetune", folder, pictures, "--output", output, *RUN, "--evaluate-every", "7", "--json")
    assert done.exit_code == 0, done.output
    return output, json.loads(done.stdout)


def write_csv(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_a_model_learns_from_captioned_pictures(trained: tuple[Path, dict[str, Any]], pictures: Path) -> None:
    output, printed = trained
    assert printed["model"] == str(output / "model")
    assert (printed["documents"], printed["held_out"], printed["steps"]) == (COUNT - 2, 2, 14)
    assert (printed["finished"], printed["refused"], printed["adapter"]) == (True, 0, None)
    entries = read_log(output / "run" / "log.jsonl")
    assert np.mean([entry["loss"] for entry in entries[-3:]]) < 0.8 * np.mean([entry["loss"] for entry in entries[:3]])
    assert [entry["step"] for entry in entries if "held_out_loss" in entry] == [7, 14]
    assert printed["losses"]["held_out_loss"] == entries[-1]["held_out_loss"]
    assert json.loads((output / "results.json").read_text()) == {**printed, "model": "model"}

    chameleon = Chameleon.from_pretrained(output / "model")
    drawing = chameleon.draw("picture 3", do_sample=True, seed=0)
    assert drawing.size == (8, 8)
    answer = chameleon.generate([pictures / "03.png"], template="chat", min_new_tokens=3, max_new_tokens=12)
    assert list(map(type, answer)) == [Text]

    (sample,) = json.loads((output / "samples" / "samples.json").read_text())["samples"]
    assert sample["caption"] == CAPTIONS[sample["key"]]
    assert sample["problems"] == []
    for name in (sample["picture"], sample["drawing"]):
        with PIL.Image.open(output / "samples" / name) as picture:
            assert picture.size == (8, 8)
    for name in ("curves.png", "samples/samples.png"):
        with PIL.Image.open(output / name) as plot:
            assert plot.format == "PNG"


def test_only_answers_are_learned_of_turns(trained: tuple[Path, dict[str, Any]], chameleon: Chameleon) -> None:
    layout, firsts = chameleon.layout, set()
    for document in TokenDataset(trained[0] / "work" / "tokens"):
        place = document.ids.tolist().index(layout.separator_id)
        assert document.trained is not None
        assert document.trained.tolist() == [number > place for number in range(len(document))]
        assert document.ids[-1] == layout.eos_id
        firsts.add(type(chameleon.processor.decode_document(document.ids[:place].tolist())[0]))
    assert firsts == {Text, Image}


def test_a_job_that_was_stopped_ends_with_the_same_weights(
    trained: tuple[Path, dict[str, Any]],
    folder: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Trainer.step

    def stop(trainer: Trainer, number: int) -> StepReport:
        if number == 8:
            raise KeyboardInterrupt
        return step(trainer, number)

    monkeypatch.setattr(Trainer, "step", stop)
    output = tmp_path / "parts"
    stopped = command("finetune", folder, pictures, "-o", output, *RUN)
    assert stopped.exit_code == 130
    assert "the same command with --resume continues" in stopped.stderr
    assert not (output / "model").exists()
    again = command("finetune", folder, pictures, "-o", output, *RUN)
    assert again.exit_code == 1
    assert "has a job already" in again.stderr

    monkeypatch.setattr(Trainer, "step", step)
    resumed = command("finetune", folder, pictures, "-o", output, "--resume", "--workers", "0", "--log-every", "2")
    assert resumed.exit_code == 0, resumed.output
    whole, parts = (
        {path.name: path.read_bytes() for path in job.glob("model/*.safetensors")} for job in (trained[0], output)
    )
    assert whole
    assert whole == parts
    assert resumed.stdout.startswith(f"{output / 'model'}: 10 documents, 14 steps, loss ")

    # What would change the result is refused, and so are other data.
    for changes, message in (
        (("--learning-rate", "1"), "learning_rate 0.005, now 1.0"),
        (("--held-out", "3"), "held_out 2, now 3"),
        (("--order", "caption-first"), "order 'mixed', now 'caption-first'"),
        (("--samples", "9"), "now 9"),
    ):
        refusal = command("finetune", folder, pictures, "-o", output, "--resume", *changes)
        assert refusal.exit_code == 1
        assert message in refusal.stderr
    other = tmp_path / "captions.csv"
    write_csv(other, [("file_name", "text"), ("00.png", "another")])
    assert "has a job with other sources" in command("finetune", folder, other, "-o", output, "--resume").stderr


def test_a_new_model_is_trained_from_captioned_pictures(folder: Path, pictures: Path, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "shape.json").write_text(json.dumps({**shape, "max_position_embeddings": 512}))
    arguments = ("--image-tokenizer", folder, "--config", tmp_path / "shape.json", "--max-position-embeddings", "64")
    heads = ("--num-key-value-heads", "2", "--text-size", "270", "--epochs", "4", "--batch-size", "4", "--workers", "0")
    tuned = ("--learning-rate", "1e-2", "--order", "caption-first", "--samples", "0")
    done = command("train", pictures, "--output", tmp_path / "new", *arguments, *heads, *tuned)
    assert done.exit_code == 0, done.output
    entries = read_log(tmp_path / "new" / "run" / "log.jsonl")
    assert len(entries) == 4 * (COUNT - 1) / 4
    assert entries[-1]["loss"] < 0.9 * entries[0]["loss"]
    chameleon = Chameleon.from_pretrained(tmp_path / "new" / "model")
    config = chameleon.model.config
    assert (config.hidden_size, config.num_key_value_heads, config.max_position_embeddings) == (32, 2, 64)
    assert "Ġpicture" in chameleon.processor.tokenizer.token_ids or "picture" in chameleon.processor.tokenizer.token_ids
    (drawn,) = chameleon.generate(["picture 3"], modality="image", seed=0, do_sample=True)
    assert isinstance(drawn, Image)
    assert not (tmp_path / "new" / "samples").exists()
    resumed = command("train", pictures, "--output", tmp_path / "new", "--resume", "--workers", "0")
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a new model needs an image tokenizer"),
        (("--image-tokenizer", "emoji", "--text-tokenizer", "emoji", "--text-size", "300"), "one is given"),
        (("--image-tokenizer", "emoji", "--num-attention-heads", "5"), "hidden_size"),
        (("--image-tokenizer", "emoji", "--order", "picture-only"), "no captions to train a text tokenizer on"),
        (("--image-tokenizer", "emoji", "--config", "shape.json"), "shape.json has 'vocab_size'"),
    ],
)
def test_what_a_new_model_lacks_is_said(
    arguments: tuple[str, ...], message: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shape.json").write_text('{"vocab_size": 4}')
    done = command("train", pictures, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 1, done.output
    assert message in " ".join(done.stderr.split())


def test_a_job_that_has_not_begun_to_train_is_replaced(folder: Path, pictures: Path, tmp_path: Path) -> None:
    start = ("finetune", folder, pictures, "-o", tmp_path, "--workers", "0", "--steps", "1", "--samples", "0")
    assert "held_out is 12 of 12 documents" in command(*start, "--held-out", "12").stderr
    assert command(*start, "--held-out", "2").exit_code == 0
    assert "has a job already" in command(*start, "--held-out", "3").stderr


def layouts(folder: Path, pictures: Path) -> Iterator[tuple[str, list[Path]]]:
    """The same pictures and captions in every layout that needs no further package, with their names."""
    data = {name: (pictures / name).read_bytes() for name in CAPTIONS}
    lines = [json.dumps({"file_name": name, "text": caption}) for name, caption in CAPTIONS.items()]

    def in_folder(name: str) -> Path:
        path = folder / name
        path.mkdir(parents=True)
        for each, content in data.items():
            (path / each).write_bytes(content)
        return path

    beside = in_folder("beside")
    for name, caption in CAPTIONS.items():
        (beside / name).with_suffix(".txt").write_text(f" {caption}\n")
    yield "texts beside the pictures", [beside]
    (in_folder("lines") / "metadata.jsonl").write_text("\n".join(lines))
    yield "metadata.jsonl", [folder / "lines"]
    (in_folder("split/train") / "metadata.jsonl").write_text("\n".join(lines))
    yield "metadata.jsonl of a split", [folder / "split"]
    captions = folder / "captions"
    in_folder("captions/a")
    captions.joinpath("all.jsonl").write_text("\n".join(line.replace('": "', '": "a/', 1) for line in lines))
    yield "a file of captions", [captions / "all.jsonl"]
    rows = [("caption", "other", "file_name"), *((caption, "", f"./a/{name}") for name, caption in CAPTIONS.items())]
    write_csv(captions / "all.csv", rows)
    yield "a CSV file with a byte order mark", [captions / "all.csv"]
    files = [
        (f"{name[:2]}.{kind}", content)
        for name in data
        for kind, content in (("png", data[name]), ("txt", CAPTIONS[name].encode()))
    ]
    write_tar(folder / "shards" / "0.tar", files)
    yield "a tar shard", [folder / "shards"]
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"image": list(data.values()), "text": list(CAPTIONS.values())}), folder / "a.parquet")
    yield "a parquet file", [folder / "a.parquet"]


def test_every_layout_gives_the_same_samples(
    folder: Path, pictures: Path, chameleon: Chameleon, tmp_path: Path
) -> None:
    def ids_of(name: str, sources: list[Path]) -> set[tuple[int, ...]]:
        field = "caption" if sources[0].suffix == ".csv" else None
        options = {"order": "caption-first", "caption_field": field, "workers": 0, "unit_size": 5}
        done = tokenize_dataset(folder, sources, tmp_path / "tokens" / name, **options)
        assert (done.documents, done.refused) == (COUNT, 0), name
        return {tuple(document.ids.tolist()) for document in done.open()}

    expected = ids_of("metadata.csv", [pictures])
    captions = {chameleon.processor.decode_document(list(ids))[0] for ids in expected}
    assert captions == {Text(caption) for caption in CAPTIONS.values()}
    for name, sources in layouts(tmp_path / "in", pictures):
        assert ids_of(name, sources) == expected, name


def test_what_a_file_of_captions_lacks_is_listed(folder: Path, pictures: Path, tmp_path: Path) -> None:
    rows = [("file_name", "text"), ("00.png", "a"), ("missing.png", "b"), ("01.png", " "), ("broken.png", "d")]
    for name in ("00.png", "01.png", "02.png"):
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    write_csv(tmp_path / "metadata.csv", rows)
    for name, source in (("folder", tmp_path), ("file", tmp_path / "metadata.csv")):
        output = tmp_path.parent / f"{tmp_path.name}-{name}"
        assert tokenize_dataset(folder, [source], output, workers=0).documents == 1
        reasons = refused(output)
        assert set(reasons) == {"missing.png", "01.png", "broken.png", *(["02.png"] if name == "folder" else [])}
        assert "missing.png" in reasons["missing.png"]
        assert reasons["01.png"] == "the caption is empty"
        assert "02.png" not in reasons or "has no caption" in reasons["02.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file,text\na.png,b\n", "has 0 columns 'file_name', expected one; it has file, text"),
        ("a.csv", "file_name,title\na.png,b\n", "has 0 columns 'text', expected one; it has file_name, title"),
        ("a.csv", "", "it has none"),
        ("a.csv", "file_name,text,text\na.png,b,c\n", "has 2 columns 'text'"),
        ("a.csv", "file_name,text\na.png\n", "line 2 of .* has no text 'file_name' or no text 'text'"),
        ("a.csv", "file_name,text\na.png,b\na.png,c\n", "line 3 of .* names 'a.png', as line 2 does"),
        ("a.csv", "file_name,text\n../a.png,b\n", "names '../a.png', which isn't below"),
        ("a.csv", 'file_name,text\na.png,"b\n', "isn't CSV"),
        ("a.csv", b"file_name,text\na.png,\xff\n", "isn't UTF-8"),
        ("a.jsonl", '{"file_name": "a.png"}', "line 1 of .* has no text 'file_name' or no text 'text'"),
        ("a.jsonl", '{"file_name": "/a.png", "text": "b"}', "names '/a.png', which isn't below"),
        ("a.jsonl", "[]", "line 1 of .*a.jsonl"),
        (
            "metadata.jsonl",
            '{"file_name": "./a.png", "text": ""}\n{"file_name": "a.png", "text": ""}',
            "as line 1 does",
        ),
    ],
)
def test_a_damaged_file_of_captions_is_an_error(
    name: str, content: str | bytes, message: str, folder: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes((pictures / "00.png").read_bytes())
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = tmp_path if name == "metadata.jsonl" else tmp_path / name
    with pytest.raises(FileFormatError, match=message):
        tokenize_dataset(folder, [source], tmp_path / "out", workers=0)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--batch-size", "0"), 2, "TrainingOptions.batch_size: Expected `int` >= 1; got 0."),
        (("--schedule", "linear"), 2, "allowed: ['exponential', 'cosine']"),
        (("--betas", "0.9"), 2, "TrainingOptions.betas"),
        (("--lora", "0"), 2, "JobOptions.lora"),
        (("--resume",), 1, "has no job to resume"),
        (("--lora-alpha", "8"), 1, "lora_alpha needs adapters"),
        (("--lora", "4", "--quantization", "int8"), 1, "turn merge off (--no-merge)"),
        (("--lora", "4", "--lora-targets", "q_proj,router"), 1, "lora_targets has router"),
        (("--order", "picture-only"), 1, "template 'chat' has a turn and an answer"),
        (("--template", "chta"), 1, "Did you mean 'chat'?"),
        (("--warmup-steps", "9", "--steps", "3"), 1, "warmup_steps must be at most steps (3)"),
        (("--steps", "3", "--epochs", "2"), 1, "steps and epochs are both given"),
        (("--held-out", "12", "--steps", "3"), 1, "held_out is 12 of 12 documents"),
        (("--sequence-length", "5", "--steps", "3"), 1, "a row has room for 6"),
        (("--max-length", "3"), 1, "no sample can be used"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(
    arguments: tuple[str, ...], status: int, message: str, folder: Path, pictures: Path, tmp_path: Path
) -> None:
    done = command("finetune", folder, pictures, "-o", tmp_path / "out", "--workers", "0", *arguments)
    assert done.exit_code == status, done.output
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out" / "run").exists()
