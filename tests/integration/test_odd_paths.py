"""Paths that no file system takes, and folders that can't be listed: every class says so in its package's words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chameleon_core
import chameleon_text
import chameleon_vq
from chameleon_core import Chameleon

INDEX = "model.safetensors.index.json"
LONG = "n" * 300
READERS = [
    Chameleon,
    chameleon_core.ChameleonForConditionalGeneration,
    chameleon_core.ChameleonModel,
    chameleon_core.ChameleonConfig,
    chameleon_text.ChameleonProcessor,
    chameleon_text.TextTokenizer,
    chameleon_vq.ChameleonVQVAE,
    chameleon_vq.ChameleonVQVAEConfig,
    chameleon_vq.ChameleonImageProcessor,
    chameleon_vq.ImageTokenizer,
]
ERRORS = (chameleon_core.ChameleonCoreError, chameleon_text.ChameleonTextError, chameleon_vq.ChameleonVQError)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name", [LONG, "n" * 5_000, f"owner/{LONG}", "a\0b", "\ud800"], ids=lambda name: ascii(name[:9])
)
def test_a_name_that_is_no_path_is_refused(reader: Any, name: str) -> None:
    with pytest.raises(ERRORS):
        reader.from_pretrained(name)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_cannot_be_listed_is_said(reader: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> Iterator[Any]:
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ERRORS, match=r"can't be read: Permission denied"):
        reader.from_pretrained(folder)


@pytest.mark.parametrize("name", [LONG, "a\0b", f"folder/{LONG}/model"], ids=lambda name: ascii(name[:9]))
def test_a_path_that_no_file_system_takes_is_not_written(chameleon: Chameleon, tmp_path: Path, name: str) -> None:
    parts = (
        chameleon,
        chameleon.model,
        chameleon.model.config,
        chameleon.processor,
        chameleon.processor.tokenizer,
        chameleon.processor.image_tokenizer,
    )
    for part in parts:
        with pytest.raises(ERRORS, match="can't be written"):
            part.save_pretrained(tmp_path / name)


@pytest.mark.parametrize("reader", [chameleon_core.ChameleonForConditionalGeneration, chameleon_vq.ImageTokenizer])
@pytest.mark.parametrize("name", ["n" * 10_000, "a\0b", "\ud800"], ids=lambda name: ascii(name[:9]))
def test_an_index_that_names_no_file_is_refused(reader: Any, folder: Path, tmp_path: Path, name: str) -> None:
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], name)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ERRORS, match=re.escape(name[:20]) if "n" in name else "index"):
        reader.from_pretrained(tmp_path)
