"""A pipeline as GGUF: the tokenizer in the file, and the image tokenizer beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
import torch
from typer.testing import CliRunner

from chameleon_core import Chameleon, InterchangeWarning
from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.cli.app import app
from chameleon_core.errors import MissingFileError
from chameleon_core.folder_parts import load_image_tokenizer, load_processor
from chameleon_core.formats.gguf_words import JSON_KEY
from chameleon_text import ChameleonProcessor, TextTokenizer
from chameleon_vq import ChameleonVQVAE, ImageTokenizer

from .test_killed_saves import Recipe, make_model, make_processor

TEXTS = ("", "the red apple", "What is 2048?\n\n\tx  y    z", "IMGIMGCFHZ <sentinel:0> <eoss>", "é…🚀 'll", "a<s>b</s>")
pytestmark = pytest.mark.filterwarnings("ignore:tokenizer.json cuts texts otherwise")


def published_steps(tokenizer: TextTokenizer) -> dict[str, Any]:
    """Return a tokenizer's file whose texts are cut as the published one's, whose code port llama.cpp's names it by."""
    data: dict[str, Any] = json.loads(tokenizer.to_json())
    step = tokenizers.pre_tokenizers
    isolated = [
        step.Split(tokenizers.Regex(pattern), "isolated")
        for pattern in (r"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )")
    ]
    steps = [
        *isolated,
        step.Digits(individual_digits=True),
        step.Punctuation("isolated"),
        step.ByteLevel(add_prefix_space=False),
    ]
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = step.Sequence(steps)
    data["pre_tokenizer"] = json.loads(library.to_str())["pre_tokenizer"]
    data["pre_tokenizer"]["pretokenizers"][2]["pattern"]["Regex"] = "([\\t\\n]|    |  )"
    return data


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "hf"
    recipe = Recipe(seed=1)
    processor = make_processor(recipe)
    torch.manual_seed(0)
    network = processor.image_tokenizer.model.config.replace(attn_type="vanilla")
    tokenizer = TextTokenizer(published_steps(processor.tokenizer))
    processor = ChameleonProcessor(tokenizer, image_tokenizer=ImageTokenizer(ChameleonVQVAE(network)))
    Chameleon(make_model(recipe, processor), processor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gguf_folder(hf_folder: Path) -> Path:
    Chameleon.from_pretrained(hf_folder).save_pretrained(hf_folder.with_name("gguf"), checkpoint_format="gguf")
    return hf_folder.with_name("gguf")


def without(path: Path, target: Path, *dropped: str, **changed: Any) -> Path:
    """Copy a file without some of its values, as llama.cpp's converter writes it."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(target, "chameleon")
    for key, value in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture" and key not in dropped:
            sub = value.types[1] if len(value.types) > 1 else None
            writer.add_key_value(key, changed.get(key.split(".")[-1], value.contents()), value.types[0], sub)
    for each in reader.tensors:
        writer.add_tensor(each.name, each.data, raw_dtype=each.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_folder_of_ours_has_everything(hf_folder: Path, gguf_folder: Path) -> None:
    names = {path.name for path in gguf_folder.iterdir()}
    assert {"model.gguf", "image_tokenizer.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names
    assert "config.json" not in names
    for place in (gguf_folder, gguf_folder / "model.gguf"):
        found, expected = Chameleon.from_pretrained(place), Chameleon.from_pretrained(hf_folder)
        (drawn,), (same,) = (each.generate("a", modality="image", seed=0) for each in (found, expected))
        assert drawn.codes == same.codes
        assert found.image_tokenizer.fingerprint == expected.image_tokenizer.fingerprint
        assert found.image_tokenizer.image_processor == expected.image_tokenizer.image_processor
        assert found.generate("the red", seed=0, max_new_tokens=4) == expected.generate(
            "the red", seed=0, max_new_tokens=4
        )


def test_the_folder_is_an_image_tokenizer_for_others(hf_folder: Path, gguf_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.gguf"
    bare.hardlink_to(gguf_folder / "model.gguf")
    with pytest.raises(MissingFileError, match=r"has no image tokenizer\. Pass image_tokenizer="):
        load_image_tokenizer(bare, device="cpu")
    chameleon = Chameleon.from_pretrained(bare, image_tokenizer=gguf_folder)
    (drawn,) = chameleon.generate("a", modality="image", seed=0)
    (same,) = Chameleon.from_pretrained(hf_folder).generate("a", modality="image", seed=0)
    assert drawn.codes == same.codes


def test_conversion_there_and_back_keeps_what_matters(hf_folder: Path, tmp_path: Path) -> None:
    def command(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    said = command("convert", hf_folder, tmp_path / "gguf", "--format", "gguf")
    assert "from hf to gguf, with a decoder" in said
    assert "The image tokenizer isn't in model.gguf: it is in" in said.replace("\n", " ")
    command("convert", tmp_path / "gguf", tmp_path / "hf")
    assert "bit for bit\nlogits: the largest difference is 0\nequal" in command("verify", hf_folder, tmp_path / "hf")
    for name in ("tokenizer.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"):
        assert json.loads((tmp_path / "hf" / name).read_text()) == json.loads((hf_folder / name).read_text())
    command("convert", hf_folder, tmp_path / "half", "--format", "gguf", "--dtype", "float16")
    assert read_checkpoint(tmp_path / "half").tensors["lm_head.weight"].dtype == torch.float16
    facts = json.loads(command("doctor", tmp_path / "gguf" / "model.gguf", "--json"))
    assert facts["folder"]["layout"] == "llama.cpp's GGUF, the transformer's text path"
    assert not facts["folder"]["missing"]


@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_tokenizer_is_put_together_again(hf_folder: Path, gguf_folder: Path, tmp_path: Path, place: str) -> None:
    path = without(gguf_folder / "model.gguf", tmp_path / "a.gguf", JSON_KEY, "chameleon_core.config")
    processor: Any = load_processor(path if place == "file" else tmp_path)
    known: Any = load_processor(hf_folder)
    assert processor.tokenizer.token_ids == known.tokenizer.token_ids
    assert processor.tokenizer.special_ids == known.tokenizer.special_ids
    for text in TEXTS:
        assert processor.tokenizer.encode(text) == known.tokenizer.encode(text)
        for arguments in ({}, {"allow_special": "all"}):
            found, expected = (each(text=text, **arguments).input_ids for each in (processor, known))
            assert torch.equal(found, expected)


def test_a_tokenizer_that_llama_cpp_cuts_otherwise_is_said(hf_folder: Path, tmp_path: Path) -> None:
    chameleon = Chameleon.from_pretrained(hf_folder)
    chameleon.save_pretrained(tmp_path / "other")
    data = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    del data["pre_tokenizer"]["pretokenizers"][2]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(data))
    with pytest.warns(InterchangeWarning, match=r"tokenizer\.json cuts texts otherwise than the published tokenizer"):
        Chameleon.from_pretrained(tmp_path / "other").save_pretrained(tmp_path / "gguf", checkpoint_format="gguf")
    known, found = (load_processor(tmp_path / name) for name in ("other", "gguf/model.gguf"))
    assert found.tokenizer.encode("a  b") == known.tokenizer.encode("a  b")


def test_a_tokenizer_of_another_pre_tokenizer_is_asked_for(hf_folder: Path, gguf_folder: Path, tmp_path: Path) -> None:
    path = without(gguf_folder / "model.gguf", tmp_path / "a.gguf", JSON_KEY, pre="llama-bpe")
    with pytest.raises(MissingFileError, match=r"has no tokenizer.*Pass processor="):
        Chameleon.from_pretrained(path)
    known = Chameleon.from_pretrained(hf_folder).generate("the", max_new_tokens=2, seed=0)
    assert Chameleon.from_pretrained(path, processor=hf_folder).generate("the", max_new_tokens=2, seed=0) == known
    result = CliRunner().invoke(app, ["doctor", str(path), "--json"])
    missing = json.loads(result.output)["folder"]["missing"]
    assert [clause.split(":")[0] for clause in missing] == ["no image tokenizer", "no tokenizer"]


def test_llama_cpps_kinds_of_tokens(gguf_folder: Path) -> None:
    fields = gguf.GGUFReader(gguf_folder / "model.gguf").fields
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    found = dict(zip(tokens, kinds, strict=True))
    assert (fields["tokenizer.ggml.model"].contents(), fields["tokenizer.ggml.pre"].contents()) == ("gpt2", "chameleon")
    assert found["<s>"] == found["<racm3:break>"] == gguf.TokenType.CONTROL
    assert found["a"] == found["IMGIMGAZ"] == gguf.TokenType.NORMAL
    assert fields["tokenizer.ggml.add_bos_token"].contents()
    assert all(" " in merge for merge in fields["tokenizer.ggml.merges"].contents())
