"""``chameleon eval`` with real parts: figures by hand, the embedded model in short form, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from chameleon_backends.registry import attention_backend_names, weight_quantizer_names
from chameleon_core import Chameleon, ChameleonCoreError, ConfigError, FileFormatError, MissingFileError
from chameleon_core.cli.app import app
from chameleon_core.cli.evaluate import named_function
from chameleon_core.demo import make_image_tokenizer
from chameleon_core.evaluation import EvaluationOptions, evaluate
from chameleon_core.evaluation.picture_quality import measure_pictures
from chameleon_core.evaluation.references import read_captioned
from chameleon_core.evaluation.run import is_embedded
from chameleon_core.evaluation.text_quality import measure_text
from chameleon_core.evaluation.variants import chosen_variants
from chameleon_emoji import MODEL, figures, pictures

# Of the figures that are the likeliest ids: machines differ in the last bits of logits, and one of 41 is 2.4 %.
NEAR_THE_CARD = 2.5 / 41


def flat(*levels: int) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (16, 16), levels)


def test_pictures_by_hand() -> None:
    tokenizer = make_image_tokenizer(16)
    found = measure_pictures(tokenizer, [flat(255, 255, 255), flat(10, 0, 0)], "two")
    # White is a colour of the tokenizer; the other is 10 levels from black in one channel of three.
    psnr = 10 * math.log10(3 * 255**2 / 10**2)
    assert found.psnr_of_each == pytest.approx((100.0, psnr), abs=1e-3)
    assert found.psnr == pytest.approx((100 + psnr) / 2, abs=1e-3)
    assert found.psnr_lowest_tenth == pytest.approx(psnr, abs=1e-3)
    assert (found.pictures, found.codes_used, found.perplexity) == (2, 2 / 1024, pytest.approx(2.0))
    assert 0.5 < found.ssim < 1
    assert found.encoded_per_second > 0
    assert (found.lpips, found.rfid) == (None, None)


def test_functions_with_the_callers_weights_measure_what_they_say() -> None:
    tokenizer = make_image_tokenizer(16)

    def distance(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
        assert first_BCHW.shape == (2, 3, 16, 16)
        assert -1 <= float(first_BCHW.min()) <= float(first_BCHW.max()) <= 1
        return (first_BCHW - second_BCHW).abs().amax(dim=(1, 2, 3))

    given = [flat(255, 0, 0), flat(10, 0, 0)]
    found = measure_pictures(
        tokenizer, given, "two", distance=distance, features=lambda pixels: pixels.mean(dim=(2, 3))
    )
    assert found.lpips == pytest.approx((0 + 10 / 127.5) / 2, abs=1e-5)
    # The mean of red moves from 132.5 to 127.5 levels, its deviation grows by 245 to 255 over √2.
    assert found.rfid == pytest.approx((5 / 127.5) ** 2 + (10 / 127.5) ** 2 / 2, abs=1e-5)
    for wrong in (lambda one, other: 1.0, lambda one, other: torch.zeros(3), lambda one, other: torch.zeros(2).long()):
        with pytest.raises(ConfigError, match="function for distance returned"):
            measure_pictures(tokenizer, given, "two", distance=wrong)  # type: ignore[arg-type]


def test_no_pictures_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        measure_pictures(make_image_tokenizer(16), [], "none")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FileFormatError, match="no picture files"):
        evaluate(folder, EvaluationOptions(pictures=str(tmp_path)))
    with pytest.raises(MissingFileError):
        evaluate(folder, EvaluationOptions(pictures=str(tmp_path / "missing")))
    with pytest.raises(ChameleonCoreError, match="no pictures, tar shards or parquet"):
        evaluate(folder, EvaluationOptions(captions=str(tmp_path)))
    flat(0, 0, 0).save(tmp_path / "black.png")
    with pytest.raises(FileFormatError, match=r"black\.png.*no caption"):
        evaluate(folder, EvaluationOptions(captions=str(tmp_path)))


def test_a_text_by_hand(chameleon: Chameleon) -> None:
    text = "A chameleon sees the whole room at once."
    found = measure_text(chameleon, text, "book.txt")
    ids = chameleon.processor.encode([text], template="completion")
    assert found.ids == len(ids) - 1, "the first id is that of the beginning"
    assert found.characters == len(text)
    with torch.no_grad():
        log_probs_TV = chameleon.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    likelihoods = [float(log_probs_TV[place, token_id]) for place, token_id in enumerate(ids[1:])]
    assert math.log(found.perplexity) == pytest.approx(-np.mean(likelihoods), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(-sum(likelihoods) / math.log(2) / len(text), rel=1e-5)


def test_a_long_text_is_predicted_in_windows(chameleon: Chameleon) -> None:
    text = "One eye rests on the window. " * 60
    found = measure_text(chameleon, text, "long.txt")
    assert found.ids > 2 * chameleon.model.config.context_length
    assert found.characters == len(text)
    first = measure_text(chameleon, text, "long.txt", max_ids=10)
    assert (first.ids, first.characters < 100) == (10, True)


def test_a_file_that_is_no_text_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(FileFormatError, match="byte 3 of it isn't UTF-8"):
        evaluate(folder, EvaluationOptions(text=str(tmp_path / "picture.txt")))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(FileFormatError, match="is empty"):
        evaluate(folder, EvaluationOptions(text=str(tmp_path / "empty.txt")))
    with pytest.raises(MissingFileError):
        evaluate(folder, EvaluationOptions(text=str(tmp_path / "missing.txt")))


def test_a_folder_without_an_image_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    index = json.loads((bare / "model.safetensors.index.json").read_text())
    config = json.loads((bare / "config.json").read_text())
    assert any(name.startswith("model.vqmodel.") for name in index["weight_map"])
    import safetensors.torch

    kept = {}
    for shard in set(index["weight_map"].values()):
        tensors = safetensors.torch.load_file(bare / shard)
        kept |= {name: tensor for name, tensor in tensors.items() if not name.startswith("model.vqmodel.")}
        (bare / shard).unlink()
    (bare / "model.safetensors.index.json").unlink()
    safetensors.torch.save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    (bare / "config.json").write_text(json.dumps(config))
    flat(0, 0, 0).save(tmp_path / "black.png")
    with pytest.raises(ChameleonCoreError, match=r"image tokenizer|vqmodel"):
        evaluate(bare, EvaluationOptions(pictures=str(tmp_path), variants=False))


def test_there_must_be_something_to_evaluate(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        evaluate(folder, EvaluationOptions(variants=False))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"limit": 2}, "limit"),
        ({"max_ids": 2}, "max_ids"),
        ({"question": "who?"}, "question"),
        ({"template": "completion"}, "template"),
        ({"quick": True}, "quick"),
        ({"text": "README.md", "variants": False, "only": ("eager",)}, "only"),
    ],
)
def test_what_would_have_no_effect_is_refused(folder: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named} would have no effect"):
        evaluate(folder, EvaluationOptions(**options))


def test_functions_without_pictures_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a perceptual distance or features would have no effect"):
        evaluate(folder, distance=lambda one, other: one)


def test_a_function_is_found_in_the_folder_that_the_command_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_metrics.py").write_text(
        "def distance(one, other):\n    return (one - other).mean(dim=(1, 2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = named_function("--lpips", "my_own_metrics:distance")
    assert found is not None
    assert found(torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)).tolist() == [1.0, 1.0]
    assert named_function("--lpips", None) is None


def captioned(folder: Path, names: Sequence[str]) -> Path:
    """A folder of drawings that the embedded model learned, with two references each."""
    folder.mkdir()
    for picture in pictures():
        if picture.style == "twemoji" and picture.name in names:
            picture.image.save(folder / f"{picture.name}.png")
            lines = f"a {picture.name}\na twemoji drawing of a {picture.name}\n"
            (folder / f"{picture.name}.txt").write_text(lines, encoding="utf-8")
    return folder


def test_captions_and_drawings_of_a_folder(tmp_path: Path) -> None:
    source = captioned(tmp_path / "things", ["fox", "panda", "rocket", "lemon"])
    read = read_captioned(source)
    assert [each.captions[0] for each in read] == ["a fox", "a lemon", "a panda", "a rocket"]
    assert read[0].captions[1] == "a twemoji drawing of a fox"
    assert len(read_captioned(source, limit=2)) == 2
    options = EvaluationOptions(captions=str(source), drawings=str(source), variants=False)
    found = evaluate("emoji", options)
    assert (found.pictures, found.card) == ((), ()), "with a source, it isn't the card that is measured"
    (named,), (drawn,) = found.captions, found.drawings
    assert (named.name, named.pictures, named.exact) == ("things", 4, 1.0)
    assert named.cider_d is not None
    # Each is one of two references, and shares words with the other.
    assert named.cider_d > 3
    assert named.examples[0] == ("a fox", "a fox")
    assert (drawn.name, drawn.drawings) == ("things", 4)
    assert 8 < drawn.psnr < 40
    assert 0 <= drawn.near <= 1


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """What the command prints, the JSON and the page."""
    folder = tmp_path_factory.mktemp("quick")
    some = [word for name in ("eager", "sdpa", "flash_attention_2", "int4") for word in ("--only", name)]
    arguments = ["eval", "emoji", "--quick", "--positions", "200", *some, "--output", str(folder)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    data = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return result.stdout, data, (folder / "evaluation.html").read_text(encoding="utf-8")


def test_the_embedded_models_names_are_those_of_the_card(quick: tuple[str, dict[str, Any], str]) -> None:
    card = {each["name"]: each for each in quick[1]["card"]}
    assert {name: each["card"] for name, each in card.items()} == {name: each.value for name, each in figures().items()}
    measured = {name: each for name, each in card.items() if each["value"] is not None}
    assert len(measured) == 6
    for name, each in measured.items():
        assert each["count"] == figures()[name].count
        assert each["value"] == pytest.approx(figures()[name].value, abs=NEAR_THE_CARD), name
    assert all(each["reason"] for name, each in card.items() if name not in measured)


def test_the_embedded_models_image_tokenizer_reaches_what_the_card_says(
    quick: tuple[str, dict[str, Any], str],
) -> None:
    found = {each["name"]: each for each in quick[1]["pictures"]}
    assert [each["pictures"] for each in found.values()] == [41, 9, 51]
    # The card has more pictures of each kind: 23.93 dB of 86, 29.79 dB of 10, 24.12 dB of 255.
    assert found["things in a withheld style"]["psnr"] == pytest.approx(23.9, abs=1)
    assert found["withheld colours and shapes"]["psnr"] == pytest.approx(29.8, abs=1)
    assert found["trained on"]["psnr"] == pytest.approx(24.1, abs=1)


def test_the_backends_and_quantizers_are_compared(quick: tuple[str, dict[str, Any], str]) -> None:
    found = {each["name"]: each for each in quick[1]["variants"]}
    assert list(found) == ["eager", "sdpa", "flash_attention_2", "int4"]
    assert (found["eager"]["mean_divergence"], found["eager"]["top1_agreement"]) == (0.0, 1.0)
    assert found["int4"]["top1_agreement"] < 1
    assert found["int4"]["options"] == {"group_size": 64}, "128 doesn't divide the width of the layers, 192"
    for each in found.values():
        assert (each["reason"] is None) == (each["top1_agreement"] is not None)
        assert each["name"] in quick[0]


def test_every_backend_and_quantizer_that_is_installed_is_compared() -> None:
    names = [registered.spec.name for _, registered in chosen_variants(None)]
    assert names == [*attention_backend_names(), *weight_quantizer_names()]


def test_the_command_prints_the_tables_and_names_the_files(quick: tuple[str, dict[str, Any], str]) -> None:
    printed, _, page = quick
    for title in ("Image tokenizer", "Attention backends and weight quantizers", "The model card's figures"):
        assert title in printed
        assert title.replace("'", "&#x27;") in page
    assert printed.rstrip().splitlines()[-1].endswith("evaluation.json")
    assert page.count("<figure>") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pictures", "no-such-folder"], "no-such-folder"),
        (["--only", "flsh"], "flsh"),
        (["--lpips", "no_such_module:name"], "can't be imported"),
        (["--lpips", "math:pi"], "a float, expected a function"),
        (["--no-variants"], "nothing to evaluate"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["eval", str(folder), *options, "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_the_embedded_model_is_known_by_its_folder(folder: Path) -> None:
    assert is_embedded(MODEL)
    assert not is_embedded(folder)
