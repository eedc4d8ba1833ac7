"""Folders in Meta's layout, with the image tokenizer and the processor that they have: read, captioned and drawn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from chameleon_core import Chameleon
from chameleon_core.checkpoints import read_checkpoint, write_checkpoint
from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.cli.app import app
from chameleon_core.errors import ConfigError, FileFormatError, MissingFileError
from chameleon_core.folder_parts import load_image_tokenizer
from chameleon_core.testing.meta_release import Release, make_ranks, write_release
from chameleon_core.verification import verify_checkpoints
from chameleon_text import ChameleonProcessor
from chameleon_vq import ChameleonVQVAE, ImageTokenizer, image_tokenizer_of

from .killing import in_child, start, wait_for
from .test_killed_saves import Recipe, make_model, make_processor

KILLS = 30 if os.environ.get("CHAMELEON_KILLS") == "all" else 6


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "hf"
    recipe = Recipe(seed=1)
    processor = make_processor(recipe)
    torch.manual_seed(0)
    network = processor.image_tokenizer.model.config.replace(attn_type="vanilla")
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
        MissingFileError, match=r"has no image tokenizer\. Pass image_tokenizer= to Chameleon\.from_pretrained"
    ):
        load_image_tokenizer(tmp_path, device="cpu")


def test_the_command_line_reads_metas_folder(meta_folder: Path) -> None:
    result = CliRunner().invoke(app, ["tokenize", str(meta_folder), "a"])
    assert result.exit_code == 0, result.output


def test_an_image_tokenizer_is_made_of_tensors(hf_folder: Path) -> None:
    known = load_image_tokenizer(hf_folder, device="cpu")
    made = image_tokenizer_of(known.state_dict(), known.config_dict())
    assert made.fingerprint == known.fingerprint


def digest(folder: Path) -> dict[str, tuple[object, bytes]]:
    tensors = {name: tensor.load() for name, tensor in read_checkpoint(folder).tensors.items()}
    bits = {name: tensor.contiguous().view(-1).view(torch.uint8) for name, tensor in tensors.items()}
    return {name: (tensors[name].dtype, each.numpy().tobytes()) for name, each in bits.items()}


@pytest.mark.filterwarnings("ignore::chameleon_core.InterchangeWarning")
def test_a_pipeline_is_saved_in_metas_layout_and_comes_back(hf_folder: Path, tmp_path: Path) -> None:
    before = Chameleon.from_pretrained(hf_folder)
    before.save_pretrained(tmp_path / "meta", checkpoint_format="meta")
    names = {path.name for path in (tmp_path / "meta").iterdir()}
    assert {"text_tokenizer.json", "tokenizer.json", "preprocessor_config.json", "vqgan.ckpt", "params.json"} <= names
    assert digest(tmp_path / "meta") == digest(hf_folder)
    Chameleon.from_pretrained(tmp_path / "meta").save_pretrained(tmp_path / "hf")
    assert digest(tmp_path / "hf") == digest(hf_folder)
    known, found = (Chameleon.from_pretrained(each) for each in (hf_folder, tmp_path / "hf"))
    assert found.processor.tokenizer.token_ids == known.processor.tokenizer.token_ids
    assert found.image_tokenizer.image_processor == known.image_tokenizer.image_processor


@pytest.mark.filterwarnings("ignore::chameleon_core.InterchangeWarning")
def test_a_model_is_saved_over_one_in_another_format(hf_folder: Path, tmp_path: Path) -> None:
    chameleon = Chameleon.from_pretrained(hf_folder)
    chameleon.save_pretrained(tmp_path)
    chameleon.save_pretrained(tmp_path, checkpoint_format="meta")
    assert not (tmp_path / "config.json").exists(), "the folder would be read as it was before"
    assert not list(tmp_path.glob("*.safetensors"))
    assert digest(tmp_path) == digest(hf_folder)


@pytest.mark.filterwarnings("ignore::chameleon_core.InterchangeWarning")
def test_converting_there_and_back_keeps_every_file_that_matters(hf_folder: Path, tmp_path: Path) -> None:
    def command(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert "from hf to meta, with a decoder" in command("convert", hf_folder, tmp_path / "meta", "--format", "meta")
    assert "from meta to hf, with a decoder" in command("convert", tmp_path / "meta", tmp_path / "hf")
    verified = command("verify", hf_folder, tmp_path / "hf")
    assert "are equal bit for bit\nlogits: the largest difference is 0\nequal" in verified
    assert digest(tmp_path / "hf") == digest(hf_folder)
    for name in ("tokenizer.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        assert json.loads((tmp_path / "hf" / name).read_text()) == json.loads((hf_folder / name).read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("direction", ["hf to meta", "meta to hf"])
def test_a_conversion_that_is_killed_leaves_nothing_that_loads_by_half(
    direction: str, hf_folder: Path, meta_folder: Path, tmp_path: Path
) -> None:
    """Killed at a random moment and started again, it gives the bytes of one that was never disturbed."""
    torch.set_num_threads(1)
    source, checkpoint_format = (hf_folder, "meta") if direction == "hf to meta" else (meta_folder, "hf")
    expected = digest(source)

    def work(target: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            convert_checkpoint(source, target, checkpoint_format=checkpoint_format)

    began = time.monotonic()
    assert in_child(partial(work, tmp_path / "whole")) == 0
    seconds = time.monotonic() - began
    whole = files_of(tmp_path / "whole")
    for number in range(KILLS):
        target = tmp_path / str(number)
        child = start(partial(work, target))
        time.sleep(Random(number).uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        wait_for(child, 60)
        try:
            left = digest(target)
        except FileFormatError:
            left = expected  # no model, which nobody takes for one
        assert left == expected
        work(target)
        assert files_of(target) == whole, "the same bytes, and nothing that the killed process left"
        work(target)  # done again by somebody who doesn't know that it ended
        assert files_of(target) == whole


@pytest.mark.parametrize("direction", ["meta to hf", "hf to meta"])
def test_peak_memory_of_a_conversion(direction: str, tmp_path: Path) -> None:
    """A checkpoint of 7B's shape at an eighth of its width; the largest tensor has 67 MB, a rank about 90.

    ``benchmarks/conversion.py`` measures the same at 7B's width.
    """
    program = """
import sys, warnings
import torch
from peak_memory import Peak
from chameleon_core.checkpoints.conversion import convert_checkpoint
torch.set_num_threads(1)
source, target, form = sys.argv[1:]
convert_checkpoint  # imported before it is measured
with Peak() as peak:
    convert_checkpoint(source, target, checkpoint_format=form)
print(peak.growth)
"""
    release = Release(ranks=2, dim=512, n_heads=8, n_kv_heads=8, n_layers=8, vocab_size=32768, multiple_of=128)
    write_release(tmp_path / "meta", release, make_ranks(release))
    largest = release.vocab_size * release.dim * 4
    if direction == "hf to meta":
        convert_checkpoint(tmp_path / "meta", tmp_path / "hf")
        arguments, bound = (tmp_path / "hf", tmp_path / "back", "meta"), largest
    else:
        arguments, bound = (tmp_path / "meta", tmp_path / "out", "hf"), largest // 4
    tests = Path(__file__).parents[2] / "packages/chameleon-core/tests"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tests), os.environ.get("PYTHONPATH", "")))}
    run = [sys.executable, "-c", program, *map(str, arguments)]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < bound + 16 * 10**6


def test_verify_says_what_differs(hf_folder: Path, tmp_path: Path) -> None:
    model = Chameleon.from_pretrained(hf_folder).model
    with torch.no_grad():
        model.lm_head.weight.data = model.lm_head.weight.clone()
        model.lm_head.weight[0, 0] += 0.25
    model.save_pretrained(tmp_path)
    result = CliRunner().invoke(app, ["verify", str(hf_folder), str(tmp_path)])
    assert result.exit_code == 1
    assert "lm_head.weight: values differ by up to 0.25" in result.output
    assert result.output.endswith("different\n")
    assert CliRunner().invoke(app, ["verify", str(hf_folder), str(tmp_path), "--tolerance", "2"]).exit_code == 0
    found = verify_checkpoints(hf_folder, tmp_path)
    assert [each.name for each in found.differences] == ["lm_head.weight"]
    assert (found.logits_difference or 0) > 0


def test_a_conversion_into_its_own_folder_is_refused(hf_folder: Path) -> None:
    with pytest.raises(ConfigError, match="is the folder that is read; write to another"):
        convert_checkpoint(hf_folder, hf_folder, checkpoint_format="meta")


def test_an_option_that_a_format_does_not_have_is_refused(hf_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the checkpoint format 'hf' has no option 'ranks'; its options are pickles"):
        convert_checkpoint(hf_folder, tmp_path / "x", target_options={"ranks": 2})
