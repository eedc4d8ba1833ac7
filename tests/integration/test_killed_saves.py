"""A process that dies while it saves leaves the folder with the old model, whole, or with the new one, whole.

At every change of the folder, for each thing that is saved: a model, a processor, a pipeline, an image tokenizer.
Another pair of models is a line in ``PAIRS``.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Quantization,
    quantize_model,
)
from chameleon_core.testing import randomize
from chameleon_text import ChameleonProcessor
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

from .killing import Changes, fill_the_disk, in_child, kill, points_of, watched

TEMPORARY = re.compile(r"\..+\.\d{8}\.tmp")
WAYS = {"killed": kill, "disk full": fill_the_disk}


@dataclass(frozen=True)
class Recipe:
    """What a model is like; two of them differ in one field or in several."""

    seed: int = 0
    layers: int = 1
    codes: int = 16
    words: tuple[str, ...] = ("the", " red")
    levels: int = 2
    quantization: str | None = None
    max_shard_size: str = "5GB"
    generation: dict[str, Any] = field(default_factory=dict, hash=False)


def make_image_tokenizer(recipe: Recipe) -> ImageTokenizer:
    config = ChameleonVQVAEConfig(
        resolution=8,
        base_channels=8,
        norm_num_groups=4,
        channel_multiplier=(1,) * recipe.levels,
        num_res_blocks=1,
        latent_channels=4,
        embed_dim=4,
        num_embeddings=recipe.codes,
        attn_type="none",
    )
    torch.manual_seed(recipe.seed)
    return ImageTokenizer(ChameleonVQVAE(config))


def make_processor(recipe: Recipe) -> ChameleonProcessor:
    tokenizer = make_tokenizer(recipe.codes, words=recipe.words)
    return ChameleonProcessor(tokenizer, image_tokenizer=make_image_tokenizer(recipe))


def make_model(recipe: Recipe, processor: ChameleonProcessor) -> ChameleonForConditionalGeneration:
    vocabulary = processor.vocabulary
    config = ChameleonConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=recipe.layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
        vocabulary_map=processor.tokenizer.token_ids,
        vq_config=processor.image_tokenizer.config_dict(),
    )
    torch.manual_seed(recipe.seed)
    model = randomize(ChameleonForConditionalGeneration(config), seed=recipe.seed).eval()
    model.generation_options = model.generation_options.replace(**recipe.generation)
    if recipe.quantization:
        quantize_model(model, Quantization(recipe.quantization))
    return model


@cache
def make_pipeline(recipe: Recipe) -> Chameleon:
    processor = make_processor(recipe)
    return Chameleon(make_model(recipe, processor), processor)


@cache
def make_bare_model(recipe: Recipe) -> ChameleonForConditionalGeneration:
    """A model without an image tokenizer, whose decoder would be a file of its own."""
    return make_model(recipe, make_processor(recipe))


def save_bare_model(recipe: Recipe, folder: Path) -> None:
    make_bare_model(recipe).save_pretrained(folder, max_shard_size=recipe.max_shard_size)


def save_model(recipe: Recipe, folder: Path) -> None:
    make_pipeline(recipe).model.save_pretrained(folder, max_shard_size=recipe.max_shard_size)


def save_processor(recipe: Recipe, folder: Path) -> None:
    make_pipeline(recipe).processor.save_pretrained(folder)


def save_pipeline(recipe: Recipe, folder: Path) -> None:
    make_pipeline(recipe).save_pretrained(folder)


def save_image_tokenizer(recipe: Recipe, folder: Path) -> None:
    make_pipeline(recipe).image_tokenizer.save_pretrained(folder)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def describe_bare_model(folder: Path) -> dict[str, Any]:
    model = ChameleonForConditionalGeneration.from_pretrained(folder)
    return {
        "config": json.dumps(model.config.to_dict(), sort_keys=True),
        "weights": digest(dict(model.state_dict())),
        "generation": json.dumps(model.generation_options.to_dict(), sort_keys=True),
    }


def describe_model(folder: Path) -> dict[str, Any]:
    image_tokenizer = ImageTokenizer.from_pretrained(folder)
    return {
        **describe_bare_model(folder),
        "image tokenizer": digest(image_tokenizer.state_dict()),
        "image config": json.dumps(image_tokenizer.model.config.to_dict(), sort_keys=True),
    }


def describe_processor(folder: Path) -> dict[str, Any]:
    processor = ChameleonProcessor.from_pretrained(folder)
    return {"tokenizer": processor.tokenizer.to_json(), "length": processor.image_seq_length}


def describe_pipeline(folder: Path) -> dict[str, Any]:
    Chameleon.from_pretrained(folder)
    return {**describe_model(folder), **describe_processor(folder)}


def describe_image_tokenizer(folder: Path) -> dict[str, Any]:
    tokenizer = ImageTokenizer.from_pretrained(folder)
    return {
        "weights": digest(tokenizer.state_dict()),
        "config": json.dumps(tokenizer.model.config.to_dict(), sort_keys=True),
        "processor": json.dumps(tokenizer.image_processor.to_dict(), sort_keys=True),
    }


Save = Callable[[Recipe, Path], None]
Describe = Callable[[Path], dict[str, Any]]
KINDS: dict[str, tuple[Save, Describe]] = {
    "bare model": (save_bare_model, describe_bare_model),
    "model": (save_model, describe_model),
    "processor": (save_processor, describe_processor),
    "pipeline": (save_pipeline, describe_pipeline),
    "image tokenizer": (save_image_tokenizer, describe_image_tokenizer),
}
OLD = Recipe()
LONGER = Recipe(words=("the", " red", " blue", " green"))
SHARDS = "24KB"
PAIRS: dict[str, tuple[str, Recipe, Recipe]] = {
    "a model: weights": ("bare model", OLD, Recipe(seed=1)),
    "a model: with its image tokenizer": ("model", OLD, Recipe(seed=1)),
    "a model: options of generation": ("model", OLD, Recipe(generation={"max_images": 3})),
    "a model: its names only": ("model", OLD, Recipe(words=("the", " rex"))),
    "a model: config": ("model", OLD, Recipe(layers=2)),
    "a model: vocabulary": ("model", OLD, LONGER),
    "a model: to int8": ("bare model", OLD, Recipe(quantization="int8")),
    "a model: from int8": ("bare model", Recipe(quantization="int8"), OLD),
    "a model: one file to shards": ("bare model", OLD, Recipe(seed=1, max_shard_size=SHARDS)),
    "a model: shards to one file": ("bare model", Recipe(max_shard_size=SHARDS), Recipe(seed=1)),
    "a model: shards to others": (
        "model",
        Recipe(max_shard_size=SHARDS),
        Recipe(layers=2, max_shard_size=SHARDS),
    ),
    "a processor: vocabulary": ("processor", OLD, LONGER),
    "a processor: number of codes": ("processor", OLD, Recipe(levels=1)),
    "a pipeline: weights": ("pipeline", OLD, Recipe(seed=1)),
    "a pipeline: vocabulary": ("pipeline", OLD, LONGER),
    "a pipeline: its names only": ("pipeline", OLD, Recipe(words=("the", " rex"))),
    "a pipeline: everything": ("pipeline", OLD, Recipe(1, 2, 32, LONGER.words, 1, "int8")),
    "an image tokenizer: weights": ("image tokenizer", OLD, Recipe(seed=1)),
    "an image tokenizer: config": ("image tokenizer", OLD, Recipe(levels=1)),
}


class Judge:
    """Tells what a folder holds: "old", "new", or what is wrong. The same content is read once."""

    def __init__(self, describe: Describe, old: dict[str, Any], new: dict[str, Any]) -> None:
        self.describe = describe
        self.old = old
        self.new = new
        self._known: dict[tuple[tuple[str, str], ...], str] = {}

    def __call__(self, folder: Path) -> str:
        """The verdict on a folder."""
        content = _content(folder)
        if content not in self._known:
            self._known[content] = self._judge(folder)
        return self._known[content]

    def _judge(self, folder: Path) -> str:
        try:
            found = self.describe(folder)
        except Exception as error:
            message = " ".join(str(error).replace(str(folder), "FOLDER").split())
            return f"unloadable: {type(error).__name__}: {message[:120]}"
        if found == self.old:
            return "old"
        if found == self.new:
            return "new"
        ages = {True: "old", False: "new"}
        parts = {
            name: ages[value == self.old[name]] if value in (self.old[name], self.new[name]) else "neither"
            for name, value in found.items()
            if self.old[name] != self.new[name] or value != self.old[name]
        }
        return f"a silent mix: {', '.join(f'{name} {age}' for name, age in parts.items())}"


def _content(folder: Path) -> tuple[tuple[str, str], ...]:
    """Names and content, but for temporary folders, which no reader looks at."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = ((path, path.relative_to(folder)) for path in paths)
    return tuple(
        (name.as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path, name in names
        if not any(map(TEMPORARY.fullmatch, name.parts))
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A place, in which a model's folder is."""
    place = tmp_path / "place"
    place.mkdir()
    return place, place / "model"


# A refusal costs what a kill costs, and shows less.
REFUSED = ("a model: weights", "a processor: vocabulary")
CASES = [(pair, way) for pair in PAIRS for way in WAYS if way == "killed" or pair in REFUSED]


@pytest.mark.parametrize(("pair", "way"), CASES)
def test_a_save_that_dies_leaves_one_whole_model(pair: str, way: str, folders: tuple[Path, Path]) -> None:
    kind, old_recipe, new_recipe = PAIRS[pair]
    save, describe = KINDS[kind]
    place, folder = folders
    for recipe in (old_recipe, new_recipe):
        save(recipe, place.parent / "once")  # what is made is made before the forks
    save(old_recipe, folder)
    before = place.parent / "before"
    shutil.copytree(place, before)
    old = describe(folder)
    points = points_of(lambda: save(new_recipe, folder), place)
    new = describe(folder)
    assert old != new
    judge = Judge(describe, old, new)
    outcomes: list[tuple[str, str]] = []
    for number, point in enumerate(points):
        if way != "killed" and point.startswith("opened"):
            continue  # what can't be opened isn't there
        put_back(before, place)

        def die(at: int = number) -> None:
            with watched(Changes(place, at, WAYS[way])):
                save(new_recipe, folder)

        if in_child(die) == 0:
            # A folder that is there needn't be made: the refusal was none. A kill always is one.
            assert way != "killed"
            assert judge(folder) == "new"
        else:
            outcomes.append((point, judge(folder)))
    wrong = [f"{point} → {outcome}" for point, outcome in outcomes if outcome not in ("old", "new")]
    assert not wrong, f"{len(wrong)} of {len(points)} points:\n" + "\n".join(wrong)
    ages = [outcome for _, outcome in outcomes]
    assert ages == sorted(ages, key=["old", "new"].index), "one change switches from the old model to the new one"


def put_back(before: Path, place: Path) -> None:
    """Restore the folder as it was."""
    shutil.rmtree(place)
    shutil.copytree(before, place)
