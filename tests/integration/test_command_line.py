"""The command line with all packages installed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import typer
from typer.testing import CliRunner

from chameleon_core import Chameleon, FileAccessError, save_document
from chameleon_core.cli.app import app
from chameleon_text import Image, Text, document_from_json
from chameleon_vq import ChameleonVQError
from chameleon_vq.cli.app import app as vq_app

from .killing import in_child


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    PIL.Image.new("RGB", (20, 10), "red").save(path)
    return path


def run(*arguments: object, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, env={"COLUMNS": "100"})


def succeed(*arguments: object, stdin: str | None = None) -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return str(result.stdout)


def test_generated_text_is_what_the_pipeline_gives(folder: Path, chameleon: Chameleon) -> None:
    (text,) = chameleon.generate("A cat ", max_new_tokens=10)
    assert isinstance(text, Text)
    assert succeed("generate", folder, "A cat ", "--max-new-tokens", 10) == text.text.rstrip("\n") + "\n"


def test_a_quantized_model_writes_what_it_writes_in_python(folder: Path) -> None:
    quantized = Chameleon.from_pretrained(folder, quantization="int8")
    (text,) = quantized.generate("A cat ", max_new_tokens=10)
    printed = succeed("generate", folder, "A cat ", "--max-new-tokens", 10, "--quantization", "int8")
    assert printed == text.text.rstrip("\n") + "\n"


def test_a_generated_document_is_in_its_folder(
    folder: Path, chameleon: Chameleon, picture: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = ("--modality", "interleaved", "--max-new-tokens", 120, "--seed", 3)
    printed = succeed("generate", folder, "A cat: ", picture, *options, "--output", output)
    expected = chameleon.generate(
        ["A cat: ", picture], modality="interleaved", max_new_tokens=120, seed=3, do_sample=True
    )
    written = document_from_json((output / "document.json").read_text())
    assert [type(segment) for segment in written] == [type(segment) for segment in expected]
    pictures = [segment for segment in expected if isinstance(segment, Image)]
    assert [segment.codes for segment in written if isinstance(segment, Image)] == [each.codes for each in pictures]
    for number, each in enumerate(pictures, start=1):
        assert PIL.Image.open(output / f"picture-{number}.png").tobytes() == each.image.tobytes()
        assert f"![picture {number}]({output / f'picture-{number}.png'})" in printed
        assert f"![picture {number}](picture-{number}.png)" in (output / "document.md").read_text()


def test_the_order_of_text_and_pictures_reaches_the_ids(folder: Path, chameleon: Chameleon, picture: Path) -> None:
    printed = succeed("tokenize", folder, "--image", picture, "--text", "is red", "--image", picture)
    assert json.loads(printed) == chameleon.processor.encode([picture, "is red", picture], template="completion")


def test_the_chat_template_is_applied(folder: Path, chameleon: Chameleon) -> None:
    printed = succeed("tokenize", folder, "Hello", "--template", "chat")
    assert json.loads(printed) == chameleon.processor.encode("Hello", template="chat")


def test_ids_become_the_document_again(folder: Path, picture: Path, tmp_path: Path) -> None:
    ids = succeed("tokenize", folder, "A red one: ", picture, " and text.")
    output = tmp_path / "out"
    shown = succeed("detokenize", folder, "--output", output, stdin=ids)
    assert shown == f"A red one: \n![picture 1]({output / 'picture-1.png'})\n and text.\n"
    assert PIL.Image.open(output / "picture-1.png").getpixel((3, 3)) == (255, 0, 0)
    assert succeed("tokenize", folder, "--document", output / "document.json") == ids


def test_without_a_folder_pictures_are_counted(folder: Path, picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "ids.json"
    file.write_text(succeed("tokenize", folder, picture))
    assert succeed("detokenize", folder, file) == "[picture 1: 16 codes]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Hello", "--max-new-tokens", 999], "the context holds 256"),
        (["Hello", "--temperature", 0], "GenerationOptions.temperature"),
        (["Hello", "--template", "caht"], "Did you mean 'chat'?"),
        (["Hello", "--attention", "flsh"], "no attention backend named 'flsh'"),
        (["Hello", "--quantization", "int9"], "no weight quantizer named 'int9'"),
        (["Hello", "--dtype", "int8"], "dtype"),
        (["--image", __file__], "is not a picture"),
    ],
)
def test_an_error_that_a_user_can_fix_is_one_line(arguments: list[object], said: str, folder: Path) -> None:
    result = run("generate", folder, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_an_id_without_a_name_is_refused(folder: Path) -> None:
    result = run("detokenize", folder, stdin="[0, 99999]")
    assert result.exit_code == 1
    assert "id 99999 has no name" in result.stderr


def test_plugins_of_every_package_are_listed() -> None:
    listed = json.loads(succeed("plugins", "--json"))
    names = {(each["hook"], each["name"]) for each in listed if each["status"] == "ready"}
    assert names >= {
        ("chameleon_vq_quantizers", "codebook"),
        ("chameleon_text_segment_codecs", "image"),
        ("chameleon_text_templates", "chat"),
        ("chameleon_attention_backends", "sdpa"),
        ("chameleon_core_checkpoint_formats", "hf"),
    }
    hooks = {each["hook"] for each in listed}
    assert hooks >= {"chameleon_vq_pretrained", "chameleon_core_pretrained"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("chameleon", "generate", "{folder}", "--image", "{pipe}"),
        ("chameleon", "tokenize", "{folder}", "--image", "{pipe}"),
        ("chameleon", "tokenize", "{folder}", "{pipe}"),
        ("chameleon", "tokenize", "{folder}", "--document", "{pipe}"),
        ("chameleon", "detokenize", "{folder}", "{pipe}"),
        ("chameleon", "generate", "{pipe}", "Hello"),
        ("chameleon-vq", "encode", "{pipe}", "-t", "{folder}", "-o", "{output}"),
        ("chameleon-vq", "reconstruct", "{pipe}", "-t", "{folder}", "-o", "{output}"),
        ("chameleon-vq", "decode", "{pipe}", "-t", "{folder}", "-o", "{output}"),
    ],
    ids=" ".join,
)
def test_a_pipe_in_place_of_a_file_is_refused_rather_than_waited_for(
    arguments: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    program = {"chameleon": app, "chameleon-vq": vq_app}[arguments[0]]
    given = [each.format(folder=folder, pipe=pipe, output=tmp_path / "output") for each in arguments[1:]]

    def work() -> None:
        result = CliRunner().invoke(program, given)
        assert isinstance(result.exception, SystemExit), result.exception
        sys.exit(result.exit_code)

    assert in_child(work) in (1, 2)


@pytest.mark.parametrize("program", [app, vq_app], ids=["chameleon", "chameleon-vq"])
def test_the_help_of_all_commands_is_in_one_style(program: Any) -> None:
    """Arguments are upper-case words, and types of options are in angle brackets, as typer shows them."""
    group = typer.main.get_command(program)
    commands = group.commands.items()  # type: ignore[attr-defined]
    assert len(commands) > 3
    for name, command in commands:
        shown = CliRunner().invoke(program, [name, "--help"], env={"COLUMNS": "300"}).stdout
        (usage,) = re.findall(r"Usage: \S+ \S+ (.*\S)", shown)
        assert re.fullmatch(r"\[OPTIONS\]( (\{[A-Z]+\}|\[[A-Z]+\])(\.\.\.)?)*", usage), (name, usage)
        for parameter in command.get_params(typer.Context(command)):
            if parameter.param_type_name == "option" and parameter.metavar is not None:
                assert re.fullmatch(r"(<[^<>A-Z]+>[x=]?)+", parameter.metavar), (name, parameter.name)


def test_check_finite_holds_for_the_image_tokenizer_too(folder: Path, picture: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    name = "model.vqmodel.decoder.conv_out.bias"
    (path,) = (path for path in spoilt.glob("*.safetensors") if name in safetensors.torch.load_file(path))
    tensors = safetensors.torch.load_file(path)
    tensors[name].fill_(float("nan"))
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ChameleonVQError, match="hold NaN or infinity"):
        Chameleon.from_pretrained(spoilt).image_tokenizer.encode([picture])
    Chameleon.from_pretrained(spoilt, check_finite=False).image_tokenizer.encode([picture])


@pytest.mark.parametrize("as_str", [True, False])
def test_a_saved_document_refers_to_pictures_of_files(as_str: bool, picture: Path, tmp_path: Path) -> None:
    save_document([Image(str(picture) if as_str else picture)], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"document.json", "document.md"}
    assert (tmp_path / "out" / "document.md").read_text() == f"![picture 1](<{picture}>)\n"
    (read,) = document_from_json((tmp_path / "out" / "document.json").read_text(), allow_files=True)
    assert isinstance(read, Image)
    assert Path(read.image) == picture


def test_a_saved_document_has_the_pictures_of_arrays(tmp_path: Path) -> None:
    values_HWC = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    save_document([Image(values_HWC), Text("!")], tmp_path)
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "picture-1.png")), values_HWC)
    assert (tmp_path / "document.md").read_text() == "![picture 1](picture-1.png)\n\n!\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_document_that_can_not_be_written_is_an_error_of_core_and_leaves_the_old_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    save_document([Text("old")], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FileAccessError, match=rf"{tmp_path}.* can't be written: {os.strerror(number)}\. \w"):
        save_document([Text("new")], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
