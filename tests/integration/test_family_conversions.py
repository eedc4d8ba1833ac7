"""Each folder of the family is converted to Meta's layout and back, bit for bit, and doctor names it on the way."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from chameleon_core import Chameleon, CheckpointWarning, InterchangeWarning
from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.cli import machine
from chameleon_core.cli.app import app
from chameleon_core.errors import ConfigError, FileFormatError, WeightsError
from chameleon_core.formats.contract import IMAGE_PREFIX
from chameleon_core.verification import verify_checkpoints

from .test_family_folders import LAYOUTS, Layout, more, norms, stored_in, tokenizers, whole, write

__all__ = ["tokenizers", "whole"]  # fixtures
# The heads of these models have norms of their own.
pytestmark = pytest.mark.filterwarnings("ignore:the heads of a rank have norms:chameleon_core.InterchangeWarning")
PAIRS = {"rotary_layout": "pairs"}


def tensors_of(folder: Path, **options: Any) -> dict[str, tuple[object, bytes]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        stored = read_checkpoint(folder, **options).tensors
    tensors = {name: tensor.load().contiguous() for name, tensor in stored.items()}
    return {name: (each.dtype, each.flatten().view(torch.uint8).numpy().tobytes()) for name, each in tensors.items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(machine, "_gflops", lambda device, dtype: 100.0)

    def run(folder: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            result = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
        return result.exit_code, json.loads(result.stdout)

    return run


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_comes_back_from_metas_layout(name: str, whole: Path, tokenizers: Path, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    folder = write(layout, whole, tmp_path)
    options = {key: each for key, each in layout.arguments.items() if key == "rotary_layout"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert_checkpoint(folder, tmp_path / "meta", checkpoint_format="meta", extra_weights="keep", **options)
    said = [str(each.message) for each in caught if issubclass(each.category, CheckpointWarning)]
    dropped = layout.warns is not None and "extra_weights" not in layout.warns
    assert [each for each in said if dropped and (layout.warns or "") in each] == said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_checkpoint(tmp_path / "meta", tmp_path / "hf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterchangeWarning)
        convert_checkpoint(tmp_path / "hf", tmp_path / "again", checkpoint_format="meta", extra_weights="keep")

    expected = tensors_of(folder, **options)
    assert tensors_of(tmp_path / "meta") == expected
    assert tensors_of(tmp_path / "hf") == expected
    assert files_of(tmp_path / "again") == files_of(tmp_path / "meta")
    before, after = (read_checkpoint(each).config for each in (tmp_path / "meta", tmp_path / "hf"))
    assert (after.picture_grammar, after.vocabulary_map) == (before.picture_grammar, before.vocabulary_map)

    has_own = any(each.startswith(IMAGE_PREFIX) for each in expected)
    parts: dict[str, Any] = {} if has_own else {"image_tokenizer": tokenizers}
    if "extra_weights" in layout.arguments:
        parts["extra_weights"] = "keep"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        source = Chameleon.from_pretrained(folder, **parts, **options)
        converted = [Chameleon.from_pretrained(tmp_path / each, **parts) for each in ("meta", "hf")]
    question = [PIL.Image.new("RGB", (32, 32), "red"), " is"]
    size = (16, 24) if source.layout.pictures.has_sizes else None
    for each in converted:
        answer = each.generate(question, modality="text", max_new_tokens=3)
        assert answer == source.generate(question, modality="text", max_new_tokens=3)
        if layout.draws:
            drawn = each.draw("a house", image_size=size, do_sample=True, seed=0)
            assert drawn.tobytes() == source.draw("a house", image_size=size, do_sample=True, seed=0).tobytes()


@pytest.mark.parametrize("name", LAYOUTS)
def test_doctor_names_each_folder(name: str, whole: Path, tmp_path: Path, doctor: Any) -> None:
    layout = LAYOUTS[name]
    code, report = doctor(write(layout, whole, tmp_path))
    assert (code, report["folder"]["unread"]) == (0, None)
    assert layout.publisher in report["folder"]["layout"]
    missing = " ".join(report["folder"]["missing"])
    assert ("--processor" in missing) != layout.has_processor
    assert ("extra_weights" in missing) == ("extra_weights" in layout.arguments)
    assert ("--rotary-layout" in missing) == ("rotary_layout" in layout.arguments)


def test_heads_of_finetunes_are_refused_in_metas_layout_unless_they_are_to_be_kept(whole: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["Orthus"], whole, tmp_path)
    with pytest.raises(
        WeightsError, match=r"model\.codebook_in\.weight\. extra_weights='keep' \(--extra-weights keep\)"
    ):
        convert_checkpoint(folder, tmp_path / "meta", checkpoint_format="meta")
    assert not (tmp_path / "meta").exists()
    with pytest.warns(InterchangeWarning, match=r"no place for mlp_head\.weight, model\.code.*: kept in extra_weights"):
        convert_checkpoint(folder, tmp_path / "meta", checkpoint_format="meta", extra_weights="keep")
    assert (tmp_path / "meta" / "extra_weights.safetensors").exists()
    assert verify_checkpoints(folder, tmp_path / "meta").equals()


@pytest.mark.filterwarnings("ignore:tokenizer.json cuts texts otherwise")
def test_heads_of_finetunes_are_kept_beside_gguf(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = write(LAYOUTS["Orthus"], whole, tmp_path)
    with pytest.raises(WeightsError, match=r"mlp_head\.weight"):
        convert_checkpoint(folder, tmp_path / "gguf", checkpoint_format="gguf")
    with pytest.warns(InterchangeWarning, match=r"kept in extra_weights.*llama\.cpp doesn't"):
        convert_checkpoint(folder, tmp_path / "gguf", checkpoint_format="gguf", extra_weights="keep")
    convert_checkpoint(tmp_path / "gguf", tmp_path / "hf")
    before, after = stored_in(folder), stored_in(tmp_path / "hf")
    names = [name for name in before if name.startswith(("mlp_head.", "model.codebook_in"))]
    assert names
    for name in names:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def test_a_folder_that_leaves_the_rotation_open_is_compared_with_what_it_became(whole: Path, tmp_path: Path) -> None:
    (layout,) = (each for each in LAYOUTS.values() if "rotary_layout" in each.arguments)
    folder = write(layout, whole, tmp_path)
    convert_checkpoint(folder, tmp_path / "hf", **PAIRS)
    with pytest.raises(ConfigError, match="rotary_layout"):
        verify_checkpoints(folder, tmp_path / "hf")
    assert verify_checkpoints(folder, tmp_path / "hf", **PAIRS).equals()
    said = CliRunner().invoke(app, ["verify", str(folder), str(tmp_path / "hf"), "--rotary-layout", "pairs"])
    assert (said.exit_code, said.stdout.splitlines()[-1]) == (0, "equal")


def test_a_folder_of_pickles_is_compared_on_request(whole: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["GAIR Anole"], whole, tmp_path)
    shutil.copytree(folder, tmp_path / "pickled")
    make_pickled(tmp_path / "pickled", 1)
    with pytest.raises(FileFormatError, match="--pickles"):
        verify_checkpoints(folder, tmp_path / "pickled")
    assert verify_checkpoints(folder, tmp_path / "pickled", pickles=True).equals()
    assert CliRunner().invoke(app, ["verify", str(folder), str(tmp_path / "pickled"), "--pickles"]).exit_code == 0


@pytest.mark.filterwarnings("ignore:.*kept in extra_weights:chameleon_core.CheckpointWarning")
def test_the_command_line_takes_what_from_pretrained_takes(whole: Path, tmp_path: Path) -> None:
    (layout,) = (each for each in LAYOUTS.values() if "rotary_layout" in each.arguments)
    (tmp_path / "deep").mkdir()
    write(layout, whole, tmp_path / "deep")
    place = [str(tmp_path), "--subfolder", f"deep/{layout.name}"]
    refused = CliRunner().invoke(app, ["generate", *place, "a", "--max-new-tokens", "1"])
    assert (refused.exit_code, "rotary_layout='pairs'" in " ".join(refused.output.split())) == (1, True)
    written = CliRunner().invoke(app, ["generate", *place, "a", "--max-new-tokens", "1", "--rotary-layout", "pairs"])
    assert written.exit_code == 0
    orthus = str(write(LAYOUTS["Orthus"], whole, tmp_path))
    assert CliRunner().invoke(app, ["generate", orthus, "a"]).exit_code == 1
    kept = CliRunner().invoke(app, ["generate", orthus, "a", "--max-new-tokens", "1", "--extra-weights", "keep"])
    assert kept.exit_code == 0, kept.output
    ids = CliRunner().invoke(app, ["tokenize", *place, "a"])
    assert json.loads(ids.stdout)[0] == 0


def make_pickled(folder: Path, shards: int) -> None:
    """Put a folder's weights into ``pytorch_model.bin`` or its shards."""
    tensors = stored_in(folder)
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names = {name: f"pytorch_model-{number % shards + 1:05d}.bin" for number, name in enumerate(tensors)}
    for file in set(names.values()):
        torch.save({name: each for name, each in tensors.items() if names[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("shards", [1, 3])
def test_the_early_fork_in_pickles_is_converted_on_request_alone(
    shards: int, whole: Path, tmp_path: Path, doctor: Any
) -> None:
    folder = write(LAYOUTS["early fork"], whole, tmp_path)
    expected = tensors_of(folder, **PAIRS)
    make_pickled(folder, shards)
    code, report = doctor(folder)
    assert (code, report["model"]) == (1, None)
    assert "early fork" in report["folder"]["layout"]
    missing = " ".join(report["folder"]["missing"])
    assert "--rotary-layout pairs" in missing
    assert "chameleon convert FOLDER NEW_FOLDER --pickles" in missing
    with pytest.raises(FileFormatError, match=r"chameleon convert FOLDER NEW_FOLDER --pickles"):
        Chameleon.from_pretrained(folder, **PAIRS)
    with pytest.raises(ConfigError, match=r"Pass rotary_layout='pairs'"):
        convert_checkpoint(folder, tmp_path / "hf", source_options={"pickles": True})
    command = ["convert", str(folder), str(tmp_path / "hf"), "--pickles", "--rotary-layout", "pairs"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert tensors_of(tmp_path / "hf") == expected
    assert "qk_layernorm" not in json.loads((tmp_path / "hf" / "config.json").read_text())


def test_pickles_of_another_publisher_are_converted_as_they_are(whole: Path, tmp_path: Path) -> None:
    folder = write(Layout("", norms(1)), whole, tmp_path)
    expected = tensors_of(folder)
    make_pickled(folder, 2)
    convert_checkpoint(folder, tmp_path / "hf", source_options={"pickles": True})
    assert tensors_of(tmp_path / "hf") == expected


@pytest.mark.parametrize("names", [("lora_A__default__weight", "lora_B__default__weight"), ("lora_embedding_A",)])
def test_adapters_within_the_weights_are_named_with_what_loads_them(
    names: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    added = {f"model__layers__0__self_attn__q_proj__{name}": torch.ones(2, 3) for name in names}
    folder = write(Layout("", more(**added)), whole, tmp_path)
    for options in ({}, {"extra_weights": "keep"}):
        with pytest.raises(WeightsError, match=r"adapters of peft.*load_lora\(model, folder\)"):
            Chameleon.from_pretrained(folder, **options)


def test_adapters_beside_the_weights_are_named_with_what_loads_them(whole: Path, tmp_path: Path, doctor: Any) -> None:
    folder = write(Layout(""), whole, tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.warns(CheckpointWarning, match=r"adapters in adapter_model.*load_lora\(model, folder\)"):
        Chameleon.from_pretrained(folder)
    assert "load_lora" in " ".join(doctor(folder)[1]["folder"]["missing"])


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_commands_take_what_a_folder_lacks(whole: Path, tokenizers: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["chameleon-7b"], whole, tmp_path)
    for path in folder.glob("*.json"):
        if path.name not in ("config.json", "generation_config.json"):
            path.unlink()
    PIL.Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    refused = run("tokenize", folder, "a house")
    assert refused.exit_code == 1
    assert "Pass processor= (on the command line --processor)" in " ".join(refused.stderr.split())
    ids = run("tokenize", folder, tmp_path / "red.png", "--image-tokenizer", tokenizers, "--processor", whole)
    assert ids.exit_code == 0, ids.output
    assert json.loads(ids.stdout) == json.loads(run("tokenize", whole, tmp_path / "red.png").stdout)
    (tmp_path / "ids.json").write_text(ids.stdout)
    drawn = tmp_path / "drawn"
    options = ("--output", drawn, "--processor", whole)
    assert "no decoder" in " ".join(run("detokenize", folder, tmp_path / "ids.json", *options).stderr.split())
    options = (*options, "--image-tokenizer", tokenizers)
    result = run("detokenize", folder, tmp_path / "ids.json", *options)
    assert result.exit_code == 0, result.output
    assert len([*drawn.glob("*.png")]) == 1


def test_commands_find_a_tokenizer_beside_the_image_tokenizer(whole: Path, tokenizers: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["WorldVLA"], whole, tmp_path)
    found = run("tokenize", folder, "a house", "--image-tokenizer", tokenizers)
    assert found.exit_code == 0, found.output
    assert found.stdout == run("tokenize", whole, "a house").stdout


def test_a_pipeline_passes_the_arguments_of_the_hub_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **arguments: Any) -> str:
        calls.append(arguments)
        return str(whole.parent)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    options = {"revision": "refs/pr/1", "cache_dir": "elsewhere", "token": "secret", "local_files_only": True}
    chameleon = Chameleon.from_pretrained("acme/model", subfolder=whole.name, **options)
    assert chameleon.model.source == whole
    assert calls
    assert all(call == options for call in calls)
