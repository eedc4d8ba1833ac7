"""Tiny folders of the family, with the names, shapes and configs of each publisher's: loaded, captioned, drawn."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ConfigError,
    GenerationOptions,
    MissingFileError,
)
from chameleon_core.cli.publishers import publisher_of
from chameleon_core.formats.contract import IMAGE_PREFIX, StoredTensor
from chameleon_core.formats.vqgan_files import write_vqgan
from chameleon_core.generation.options import published_options
from chameleon_core.picture_grammars.lumina import reserved
from chameleon_core.testing import randomize
from chameleon_text import ChameleonProcessor, Image
from chameleon_text.testing import make_tokenizer
from chameleon_vq.testing import make_image_tokenizer

# The last makes the number of ids even, which two ranks divide.
RESERVED = (*(reserved(8799 + number) for number in range(6)), "<reserved00001>")
LUMINA = "ChameleonXLLMXForConditionalGeneration"
BOTH_NAMINGS = {"ch": 32, "ch_mult": [1, 1, 1], "n_embed": 64, "z_channels": 16, "double_z": False, "out_ch": 3}
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def without_decoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if "decoder" not in n}


def without_vqmodel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if not n.startswith(IMAGE_PREFIX)}


def norms(*rows: int, drop: Change = dict) -> Change:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        norm = [n for n in tensors if "q_norm" in n or "k_norm" in n]
        return drop({**tensors, **{n: torch.ones(*rows, tensors[n].shape[-1]) for n in norm}})

    return change


def more(drop: Change = dict, **tensors: Tensor) -> Change:
    return lambda stored: {**drop(stored), **{name.replace("__", "."): each for name, each in tensors.items()}}


def renamed(prefix: str) -> Change:
    return lambda tensors: {prefix + name: each for name, each in tensors.items()}


@dataclass(frozen=True)
class Layout:
    """What a publisher's folder has, beside a whole folder of this toolkit."""

    publisher: str
    """What ``chameleon doctor`` calls it: a part of that."""
    change: Change = dict
    fields: dict[str, Any] = field(default_factory=dict)
    vq_fields: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    has_processor: bool = True
    draws: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)
    warns: str | None = None
    name: str = "model"
    """The folder's."""


ANOLE = {"image_token_id": 8711, "boi_token_id": 8197, "eoi_token_id": 8196}
MODE = {"multimodal_generation_mode": "text-only"}
AUTOSET = {"_attn_implementation_autoset": True}
VLA = {"architectures": [LUMINA], "action_dim": 7, "time_horizon": 5}
TRAINED = {"architectures": [LUMINA], "z_loss_weight": 1e-5, "mask_image_logits": True, "dropout": 0.05}
LUMINA_FOLDER: dict[str, Any] = {"change": norms(1, drop=without_vqmodel), "fields": TRAINED, "has_processor": False}
HEAD = torch.ones(2, 3)

LAYOUTS = {
    "chameleon-7b": Layout("Meta", without_decoder, vq_fields=BOTH_NAMINGS, draws=False),
    "chameleon-30b": Layout("Meta", without_decoder, {"swin_norm": True, "model_parallel_size": 2}, draws=False),
    "re-saved by 4.46": Layout("transformers", without_decoder, AUTOSET, AUTOSET, draws=False),
    "re-saved by 5": Layout(
        "transformers", without_decoder, {"rope_theta": None, "dtype": "float32", "is_decoder": False}, draws=False
    ),
    "leloy Anole": Layout("Anole", norms(1), ANOLE, AUTOSET, MODE),
    "GAIR Anole": Layout("Anole", dict, ANOLE, {}, MODE),
    "GAIR twgi": Layout("Anole", dict, ANOLE, {}, {"multimodal_generation_mode": "interleaved-text-image"}),
    "PR 36047": Layout("Anole", dict, {**ANOLE, "model_type": "anole", "architectures": ["AnoleForCausalLM"]}),
    "early fork": Layout(
        "early fork",
        norms(),
        {"qk_layernorm": True, "architectures": ["ChameleonForCausalLM"]},
        arguments={"rotary_layout": "pairs"},
    ),
    "AA-chameleon-base": Layout("", without_decoder, {"torch_dtype": "float32"}, draws=False),
    "AA-chameleon-plus": Layout("", dict, {**AUTOSET, "num_hidden_layers": 2.0}),
    "Lumina-mGPT-7B-512": Layout("Lumina-mGPT", name="Lumina-mGPT-7B-512", **LUMINA_FOLDER),
    "Lumina-mGPT-7B-768": Layout("Lumina-mGPT", name="Lumina-mGPT-7B-768", **{**LUMINA_FOLDER, "has_processor": True}),
    "Lumina-mGPT-7B-1024": Layout("Lumina-mGPT", name="Lumina-mGPT-7B-1024", **LUMINA_FOLDER),
    "Lumina-mGPT-34B": Layout(
        "Lumina-mGPT",
        norms(2, drop=without_vqmodel),
        {**TRAINED, "model_parallel_size": 2, "swin_norm": True},
        has_processor=False,
        name="Lumina-mGPT-34B-512",
    ),
    "Chameleon_7B_mGPT": Layout("Lumina-mGPT", **LUMINA_FOLDER),
    "RynnVLA": Layout(
        "RynnVLA",
        more(without_vqmodel, action_head__weight=HEAD),
        VLA,
        has_processor=False,
        arguments={"extra_weights": "keep"},
        warns="kept in extra_weights: action_head.weight",
    ),
    "WorldVLA": Layout("RynnVLA", without_vqmodel, VLA, has_processor=False),
    "Orthus": Layout(
        "Orthus",
        more(mlp_head__weight=HEAD, model__codebook_in__weight=HEAD + 1),
        arguments={"extra_weights": "keep"},
        warns="kept in extra_weights: mlp_head.weight, model.codebook_in.weight",
    ),
    "old frequencies": Layout(
        "", more(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4)), warns="rotary_emb.inv_freq"
    ),
    "trained VQ-VAE": Layout("", more(model__vqmodel__loss__logvar=torch.ones(1)), warns="model.vqmodel.loss.logvar"),
    "saved from torch.compile": Layout("", renamed("_orig_mod."), warns="torch.compile"),
    "saved from DDP": Layout("", renamed("module."), warns="DistributedDataParallel"),
}


def pipeline(**fields: Any) -> Chameleon:
    tokenizer, image_tokenizer = make_tokenizer(more_specials=RESERVED), make_image_tokenizer()
    config = ChameleonConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "vocabulary_map": dict(tokenizer.token_ids),
            "vq_config": image_tokenizer.config_dict(),
            **fields,
        }
    )
    model = randomize(ChameleonForConditionalGeneration(config)).eval()
    return Chameleon(model, ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all others are made of, which has everything."""
    folder = tmp_path_factory.mktemp("whole")
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of Meta's ``tokenizer``."""
    folder = tmp_path_factory.mktemp("release") / "tokenizer"
    folder.mkdir()
    image_tokenizer = make_image_tokenizer()
    tensors = {IMAGE_PREFIX + n: StoredTensor.of(t) for n, t in image_tokenizer.state_dict().items()}
    write_vqgan(folder, image_tokenizer.config_dict(), tensors)
    make_tokenizer(more_specials=RESERVED).save(folder / "text_tokenizer.json")
    return folder


def stored_in(folder: Path) -> dict[str, Tensor]:
    return {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}


def write(layout: Layout, whole: Path, root: Path) -> Path:
    folder = root / layout.name
    folder.mkdir()
    config = {**json.loads((whole / "config.json").read_text()), "architectures": ["ChameleonForConditionalGeneration"]}
    config["vq_config"] |= layout.vq_fields
    (folder / "config.json").write_text(json.dumps({**config, **layout.fields}))
    (folder / "generation_config.json").write_text(json.dumps({"transformers_version": "4.46.3", **layout.generation}))
    save_file(layout.change(stored_in(whole)), folder / "model.safetensors", {"format": "pt"})
    if layout.has_processor:
        for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
            (folder / name).write_bytes((whole / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_of_the_family_loads_captions_and_draws(
    name: str, whole: Path, tokenizers: Path, tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    folder = write(layout, whole, tmp_path)
    assert layout.publisher in publisher_of(folder)
    has_own = any(IMAGE_PREFIX in each for each in stored_in(folder))
    arguments = layout.arguments if has_own else {**layout.arguments, "image_tokenizer": tokenizers}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chameleon = Chameleon.from_pretrained(folder, **arguments)
        caption = chameleon.generate([PIL.Image.new("RGB", (32, 32), "red"), " is"], modality="text", max_new_tokens=3)
    messages = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    assert len(messages) == (layout.warns is not None), messages
    assert layout.warns is None or layout.warns in messages[0]
    assert caption is not None
    if layout.draws:
        size = (16, 24) if chameleon.layout.pictures.has_sizes else None
        picture = chameleon.draw("a house", image_size=size, do_sample=True, seed=0)
        assert size in (None, (picture.height, picture.width))
    else:
        with_decoder = Chameleon.from_pretrained(folder, image_tokenizer=whole)
        assert with_decoder.draw("a house", do_sample=True, seed=0).size == (32, 32)


def test_an_image_tokenizer_of_another_codebook_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["chameleon-7b"], whole, tmp_path)
    other = make_image_tokenizer(seed=1)
    with pytest.raises(ConfigError, match="has another encoder or codebook than the one in"):
        Chameleon.from_pretrained(folder, image_tokenizer=other)


def test_a_killed_save_of_the_parts_that_are_attached_is_read(whole: Path, tmp_path: Path) -> None:
    """The process died after the commit, before any file was moved to its place."""
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed / ".chameleon-commit")
    expected = Chameleon.from_pretrained(whole)
    found = Chameleon.from_pretrained(whole, image_tokenizer=killed, processor=killed)
    assert found.processor.image_tokenizer.fingerprint == expected.processor.image_tokenizer.fingerprint
    assert found.processor.tokenizer.get_vocab() == expected.processor.tokenizer.get_vocab()


def test_what_is_missing_is_said_with_the_argument_that_gives_it(whole: Path, tokenizers: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["Lumina-mGPT-7B-512"], whole, tmp_path)
    with pytest.raises(MissingFileError, match="Pass processor="):
        Chameleon.from_pretrained(folder)
    chameleon = Chameleon.from_pretrained(folder, processor=whole)
    with pytest.raises(MissingFileError, match="Pass image_tokenizer="):
        chameleon.draw("a house", image_size=(16, 16))
    with pytest.raises(MissingFileError, match="Pass image_tokenizer="):
        chameleon.generate([PIL.Image.new("RGB", (32, 32))])


def test_pictures_of_three_sizes_are_drawn_in_one_batch_and_saved(
    whole: Path, tokenizers: Path, tmp_path: Path
) -> None:
    folder = write(LAYOUTS["Lumina-mGPT-7B-768"], whole, tmp_path)
    chameleon = Chameleon.from_pretrained(folder, image_tokenizer=tokenizers)
    prompts = ["a house", "a tree", "a road and a river", "the sea", "a wall"]
    options = {"modality": "image", "do_sample": True, "temperature": 5.0, "seed": 4}
    documents = chameleon.generate_batch(prompts, **options)  # type: ignore[arg-type]
    pictures = [segment for (segment,) in documents if isinstance(segment, Image)]
    assert len({picture.grid for picture in pictures}) >= 3
    assert all((each.image.height, each.image.width) == (4 * each.grid[0], 4 * each.grid[1]) for each in pictures)
    chameleon.save_pretrained(tmp_path / "saved")
    again = Chameleon.from_pretrained(tmp_path / "saved")
    assert again.generate_batch(prompts, **options) == documents  # type: ignore[arg-type]


def test_the_largest_picture_of_lumina_is_the_one_that_its_name_says(whole: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["Lumina-mGPT-7B-768"], whole, tmp_path)
    config = ChameleonConfig.from_pretrained(folder)
    assert config.picture_grammar == {"name": "lumina", "max_codes": 48 * 48}
    assert published_options(config) == GenerationOptions.lumina()


def test_an_image_tokenizer_alone_is_attached(whole: Path, tmp_path: Path) -> None:
    folder = write(LAYOUTS["Lumina-mGPT-7B-512"], whole, tmp_path)
    make_image_tokenizer().save_pretrained(tmp_path / "vqvae-hf")
    path = tmp_path / "vqvae-hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quant_state_dims": [8, 8]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chameleon = Chameleon.from_pretrained(folder, image_tokenizer=tmp_path / "vqvae-hf", processor=whole)
    assert chameleon.draw("a house", image_size=(16, 24), do_sample=True).size == (24, 16)


def test_another_model_of_the_same_name_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = write(Layout("", name="Lumina-mGPT-2.0"), whole, tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    with pytest.raises(ConfigError, match=r"Lumina-mGPT 2\.0"):
        Chameleon.from_pretrained(folder)
