"""Documents whose writing was interrupted, and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chameleon_core import (
    Chameleon,
    Finished,
    GenerationError,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    MissingFileError,
    load_document,
    save_document,
)
from chameleon_core.cli.app import app
from chameleon_core.demo import make_chameleon
from chameleon_text import Document, Image, Text

SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 2.0, "seed": 3}


@pytest.fixture(scope="module")
def chameleon() -> Chameleon:
    return make_chameleon(resolution=16)


def codes(document: Document) -> tuple[int, ...] | None:
    (picture,) = document
    assert isinstance(picture, Image)
    return picture.codes


def interrupted(chameleon: Chameleon, steps: int, **options: Any) -> Finished:
    """What a run had when it was stopped after so many steps."""
    left = iter(range(steps))
    *_, finished = chameleon.stream("a leaf", should_stop=lambda: next(left, None) is None, **SAMPLED, **options)
    assert isinstance(finished, Finished)
    assert finished.reason == "cancelled"
    return finished


@pytest.mark.parametrize("steps", [1, 2, 30, 63])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_picture_is_drawn_to_its_end(chameleon: Chameleon, tmp_path: Path, steps: int, guidance: float) -> None:
    options: dict[str, Any] = {"modality": "image", "guidance_text": guidance}
    whole = chameleon.generate("a leaf", **SAMPLED, **options)
    part = interrupted(chameleon, steps, **options)
    assert len(codes(part.document) or ()) == steps
    save_document(part.document, tmp_path)
    for written in (part.document, part.new_ids, load_document(tmp_path)):
        assert codes(chameleon.generate("a leaf", written=written, **SAMPLED, **options)) == codes(whole)


def test_only_what_is_new_has_events(chameleon: Chameleon) -> None:
    part = interrupted(chameleon, 60, modality="image")
    events = list(chameleon.stream("a leaf", modality="image", written=part.document, **SAMPLED))
    assert events[0] == ImageStarted(0, 64)
    assert [event.codes_done for event in events if isinstance(event, ImageProgress)] == [61, 62, 63, 64]
    assert [len(event.codes) for event in events if isinstance(event, ImageFinished)] == [64]


@pytest.mark.parametrize("steps", [1, 5, 20, 39])
def test_text_goes_on_after_the_ids_that_were_written(chameleon: Chameleon, steps: int) -> None:
    options: dict[str, Any] = {"modality": "interleaved", "max_new_tokens": 90}
    *_, whole = chameleon.stream("a leaf", **SAMPLED, **options)
    part = interrupted(chameleon, steps, **options)
    *_, resumed = chameleon.stream("a leaf", written=part.new_ids, **SAMPLED, **options)
    assert resumed == whole
    assert isinstance(resumed, Finished)
    assert isinstance(whole, Finished)
    assert resumed.new_ids == whole.new_ids


def test_rows_of_a_batch_go_on_each_from_its_own(chameleon: Chameleon) -> None:
    part = interrupted(chameleon, 10, modality="image")
    first, second = chameleon.generate_batch(
        ["a leaf", "a leaf"], modality="image", written=[part.document, None], **SAMPLED
    )
    again = chameleon.generate_batch(["a leaf", "a leaf"], modality="image", **SAMPLED)
    assert [codes(first), codes(second)] == [codes(each) for each in again]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            Document([Image(codes=(1, 2)), Text("more")]),
            "a picture before the end of what was written has 2 codes; this model's pictures have 64",
        ),
        (Document([Image(codes=(10**6,))]), "the model's are 0…"),
        ([10**6], "outside the vocabulary"),
    ],
    ids=["open before the end", "a code of another model", "an id of another model"],
)
def test_what_this_model_cannot_have_written_is_refused(chameleon: Chameleon, written: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        chameleon.generate("a leaf", modality="interleaved", written=written, **SAMPLED)


def test_each_prompt_needs_an_entry(chameleon: Chameleon) -> None:
    with pytest.raises(GenerationError, match="written has 1 entries for 2 prompts"):
        chameleon.generate_batch(["a", "b"], written=[None], max_new_tokens=2)


def test_the_command_line_goes_on_with_a_folder(chameleon: Chameleon, tmp_path: Path) -> None:
    chameleon.save_pretrained(tmp_path / "model")
    whole = chameleon.generate("a leaf", modality="image", **SAMPLED)
    save_document(interrupted(chameleon, 9, modality="image").document, tmp_path / "stopped")
    flags = ["a leaf", "--modality", "image", "--temperature", "2", "--seed", "3"]
    folders = ["--resume", str(tmp_path / "stopped"), "--output", str(tmp_path / "whole")]
    result = CliRunner().invoke(app, ["generate", str(tmp_path / "model"), *flags, *folders])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"![picture 1]({tmp_path / 'whole' / 'picture-1.png'})\n"
    assert codes(load_document(tmp_path / "whole")) == codes(whole)


def test_a_folder_without_a_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"document\.json"):
        load_document(tmp_path)
