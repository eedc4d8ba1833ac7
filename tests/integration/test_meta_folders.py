"""Folders in Meta's layout, with the image tokenizer and the processor that they have: read, captioned and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from chameleon_core import Chameleon
from chameleon_core.checkpoints import read_checkpoint, write_checkpoint
from chameleon_core.cli.app import app
from chameleon_core.errors import MissingFileError
from chameleon_core.folder_parts import load_image_tokenizer
from chameleon_text import ChameleonProcessor
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer, image_tokenizer_of

from .test_killed_saves import Recipe, make_model, make_processor


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "hf"
    recipe = Recipe(seed=1)
    processor = make_processor(recipe)
    torch.manual_seed(0)
    network = ChameleonVQVAEConfig(**{**processor.image_tokenizer.config_dict(), "attn_type": "vanilla"})
    processor = ChameleonProcessor(processor.tokenizer, image_tokenizer=ImageTokenizer(ChameleonVQVAE(network)))
    Chameleon(make_model(recipe, processor), processor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def meta_folder(hf_folder: Path) -> Path:
    folder = hf_folder.with_name("meta")
    with pytest.warns(UserWarning, match="the heads of a rank have norms of their own"):
        write_checkpoint(read_checkpoint(hf_folder), folder, checkpoint_format="meta")
    return folder


def test_a_folder_of_metas_has_everything(meta_folder: Path) -> None:
    names = {path.name for path in meta_folder.iterdir()}
    assert {"params.json", "consolidated.pth", "vqgan.yaml", "vqgan.ckpt", "text_tokenizer.json"} <= names


@pytest.mark.parametrize("bare", [False, True], ids=["with the processor's files", "Meta's files alone"])
def test_a_folder_of_metas_draws_the_same_picture(
    hf_folder: Path, meta_folder: Path, bare: bool, tmp_path: Path
) -> None:
    if bare:
        for path in meta_folder.iterdir():
            if path.suffix in (".pth", ".ckpt", ".yaml") or path.name.startswith(("params", "consol", "text_", "gen")):
                (tmp_path / path.name).hardlink_to(path)
        meta_folder = tmp_path
    found, expected = (Chameleon.from_pretrained(each) for each in (meta_folder, hf_folder))
    with torch.no_grad():
        ids = torch.arange(8)[None]
        torch.testing.assert_close(found.model(ids).logits, expected.model(ids).logits)
    (drawn,), (same,) = (each.generate("a", modality="image", seed=0) for each in (found, expected))
    assert drawn.codes == same.codes
    np.testing.assert_array_equal(np.asarray(drawn.image), np.asarray(same.image))
    assert found.image_tokenizer.fingerprint == expected.image_tokenizer.fingerprint
    assert found.image_tokenizer.image_processor.rounding == ("meta" if bare else "transformers")


def test_a_folder_without_an_image_tokenizer_says_what_to_do(meta_folder: Path, tmp_path: Path) -> None:
    for path in meta_folder.iterdir():
        if not path.name.startswith("vqgan"):
            (tmp_path / path.name).hardlink_to(path)
    with pytest.raises(
        MissingFileError, match=r"has no image tokenizer\. Put its files there, vqgan.yaml and vqgan.ckpt"
    ):
        load_image_tokenizer(tmp_path, device="cpu")


def test_the_command_line_reads_metas_folder(meta_folder: Path) -> None:
    result = CliRunner().invoke(app, ["tokenize", str(meta_folder), "a"])
    assert result.exit_code == 0, result.output


def test_an_image_tokenizer_is_made_of_tensors(hf_folder: Path) -> None:
    known = load_image_tokenizer(hf_folder, device="cpu")
    made = image_tokenizer_of(known.state_dict(), known.config_dict())
    assert made.fingerprint == known.fingerprint
