"""The demo, with pictures of fewer codes than it has by default."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
import torch

from chameleon_core import Chameleon
from chameleon_core.demo import make_image_tokenizer, run_demo
from chameleon_text import document_from_json


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    report = run_demo(path, resolution=16)
    assert all(value and meaning for value, meaning in report.figures())
    assert all(file.exists() for file, _ in report.files())
    return path


def test_the_contact_sheet_shows_the_photographs(output: Path) -> None:
    sheet = PIL.Image.open(output / "contact-sheet.png")
    assert sheet.width == 1440
    assert 1000 < sheet.height < 3000
    colours = sheet.getcolors(maxcolors=sheet.width * sheet.height)
    assert colours is not None
    assert len(colours) > 5000


def test_the_document_can_be_read_again(output: Path) -> None:
    document = document_from_json((output / "document.json").read_text())
    pictures = [segment for segment in document if getattr(segment, "codes", None)]
    assert pictures
    assert len(list(output.glob("picture-*.png"))) == len(pictures)


def test_the_checkpoint_can_be_used(output: Path) -> None:
    assert Chameleon.from_pretrained(output / "checkpoint").generate("A ", max_new_tokens=3)


def test_the_image_tokenizer_set_by_hand_reads_the_codes_that_it_drew() -> None:
    image_tokenizer = make_image_tokenizer(8)
    codes_BN = torch.randint(image_tokenizer.num_codes, (4, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(image_tokenizer.encode(image_tokenizer.decode(codes_BN)), codes_BN)


@pytest.mark.parametrize(("colour", "code"), [("black", 0), ("white", 1023), ("blue", 7), ("red", 7 * 16 * 8)])
def test_its_codes_are_colours(colour: str, code: int) -> None:
    image_tokenizer = make_image_tokenizer(8)
    codes_BN = image_tokenizer.encode(PIL.Image.new("RGB", (9, 9), colour))
    assert codes_BN.unique().tolist() == [code]
