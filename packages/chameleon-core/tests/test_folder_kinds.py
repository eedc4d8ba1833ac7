"""Folders that have no model: parts of one, adapters, nothing. What they are and what to do is said everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chameleon_core import ChameleonForConditionalGeneration
from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.cli import machine
from chameleon_core.cli.app import app
from chameleon_core.errors import ConfigError, FileFormatError


def with_files(**content: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, each in content.items():
            (folder / name.replace("__", ".")).write_text(json.dumps(each))

    return write


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "acme/chameleon"}
VQVAE = {"model_type": "chameleon_vqgan"}
KINDS: dict[str, tuple[Callable[[Path], None], str, str, bool]] = {
    "image tokenizer": (with_files(config__json=VQVAE), "image tokenizer alone", "--image-tokenizer", True),
    "Meta's image tokenizer": (with_files(vqgan__ckpt=0, vqgan__yaml=0), "of Meta's alone", "--image-tokenizer", True),
    "Meta's tokenizers": (
        with_files(vqgan__ckpt=0, vqgan__yaml=0, text_tokenizer__json={}),
        "Meta's tokenizers alone",
        "--image-tokenizer",
        True,
    ),
    "Meta's text tokenizer": (with_files(text_tokenizer__json={}), "a processor alone", "--processor", True),
    "processor": (
        with_files(tokenizer__json={}, preprocessor_config__json={}),
        "a processor alone",
        "--processor",
        True,
    ),
    "adapter": (
        with_files(adapter_config__json=ADAPTER, adapter_model__safetensors=0),
        "adapters alone",
        r"acme/chameleon\), then chameleon_core.training.load_lora",
        True,
    ),
    "adapter with a tokenizer": (
        with_files(adapter_config__json=ADAPTER, adapter_model__bin=0, tokenizer__json={}),
        "adapters alone",
        "load_lora",
        True,
    ),
    "half of Meta's": (with_files(vqgan__yaml=0), "without vqgan.ckpt", "put vqgan.ckpt there", False),
    "settings": (with_files(preprocessor_config__json={}), "settings of pictures", "a tokenizer, beside them", False),
    "empty": (with_files(), "an empty folder", "download or convert a model to it", False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_folder_without_a_model_is_and_what_to_do_is_said(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, what, advice, is_usable = KINDS[kind]
    write(tmp_path)
    with pytest.raises((FileFormatError, ConfigError)) as raised:
        ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    if kind != "image tokenizer":  # which has a configuration, and its error
        assert raised.match(f"has no model; it is .*{what}.*{advice}")
    monkeypatch.setattr(machine, "_gflops", lambda device, dtype: 100.0)
    result = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    folder = json.loads(result.stdout)["folder"]
    assert result.exit_code == (0 if is_usable else 1)
    assert folder["is_usable"] == is_usable
    assert what in folder["layout"]
    assert len(folder["missing"]) == 1
    shown = CliRunner().invoke(app, ["doctor", str(tmp_path)], env={"COLUMNS": "200"}).stdout
    assert what in shown


def test_a_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "model.safetensors")])
    assert result.exit_code == 1
    assert "is a file; expected a folder with the config and the weights. Pass the one" in result.stderr


def test_a_folder_of_something_else_lists_the_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileFormatError, match=r"has none of the installed formats: hf .*It holds: notes\.txt"):
        read_checkpoint(tmp_path)
    monkeypatch.setattr(machine, "_gflops", lambda device, dtype: 100.0)
    result = CliRunner().invoke(app, ["doctor", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert "none that is known" in result.stdout
    assert "It holds: notes.txt" in result.stdout
