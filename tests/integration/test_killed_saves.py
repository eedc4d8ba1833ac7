"""A process that dies while it saves leaves the folder with the old model, whole, or with the new one, whole.

For each thing that is saved: a model, a processor, a pipeline, an image tokenizer. Another pair of models is a line
in ``PAIRS``. Until its commit a save only changes a hidden folder of its own, which no reader looks at. So those
changes are tried for ``THOROUGH`` alone, unless CHAMELEON_KILLS=all is set, and the later ones for all pairs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import chameleon_core.errors
import chameleon_text
import chameleon_vq
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

from .killing import Changes, fill_the_disk, in_child, kill, points_of, start, watched

TEMPORARY = re.compile(r"\..+\.\d{8}\.tmp")
COMMIT = ".chameleon-commit"
WAYS = {"killed": kill, "disk full": fill_the_disk}
PACKAGE_ERRORS = (chameleon_core.errors.FileAccessError, chameleon_text.FileAccessError, chameleon_vq.FileAccessError)
REFUSAL = 3
"""The exit status of a process whose save was refused with an error of the package's."""


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
        base_channels=32,
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
    return _described(ChameleonForConditionalGeneration.from_pretrained(folder))


def describe_model(folder: Path) -> dict[str, Any]:
    return {**describe_bare_model(folder), **_image_tokenizer_described(folder)}


def describe_processor(folder: Path) -> dict[str, Any]:
    processor = ChameleonProcessor.from_pretrained(folder)
    return {"tokenizer": processor.tokenizer.to_json(), "length": processor.image_seq_length}


def describe_pipeline(folder: Path) -> dict[str, Any]:
    model = Chameleon.from_pretrained(folder).model
    return {**_described(model), **_image_tokenizer_described(folder), **describe_processor(folder)}


def _described(model: ChameleonForConditionalGeneration) -> dict[str, Any]:
    return {
        "config": json.dumps(model.config.to_dict(), sort_keys=True),
        "weights": digest(dict(model.state_dict())),
        "generation": json.dumps(model.generation_options.to_dict(), sort_keys=True),
    }


def _image_tokenizer_described(folder: Path) -> dict[str, Any]:
    image_tokenizer = ImageTokenizer.from_pretrained(folder)
    return {
        "image tokenizer": digest(image_tokenizer.state_dict()),
        "image config": json.dumps(image_tokenizer.model.config.to_dict(), sort_keys=True),
    }


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
ALL = os.environ.get("CHAMELEON_KILLS") == "all"
OLD = Recipe()
LONGER = Recipe(words=("the", " red", " blue", " green"))
SHARDS = "24KB"
# Of a model with its image tokenizer, which has fifty of those: six files and eight show as much.
LARGE_SHARDS = (SHARDS, SHARDS) if ALL else ("200KB", "150KB")
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
        Recipe(max_shard_size=LARGE_SHARDS[0]),
        Recipe(layers=2, max_shard_size=LARGE_SHARDS[1]),
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


THOROUGH = PAIRS if ALL else ("a model: weights", "a processor: number of codes", "a pipeline: everything")
# A refusal costs what a kill costs, and shows less.
REFUSED = PAIRS if ALL else ("a model: weights", "a processor: number of codes", "an image tokenizer: config")
CLEARED = PAIRS if ALL else ("a processor: number of codes", "a model: weights")
CASES = [(pair, way) for pair in PAIRS for way in WAYS if way == "killed" or pair in REFUSED]


@dataclass(frozen=True)
class Prepared:
    """A pair that is saved: the folder before, the changes of the second save, and who tells what a folder holds."""

    save: Callable[[], None]
    place: Path
    folder: Path
    before: Path
    points: list[str]
    judge: Judge
    names: list[str]

    def put_back(self) -> None:
        """Restore the folder as it was."""
        shutil.rmtree(self.place)
        shutil.copytree(self.before, self.place)

    def die_at(self, number: int, way: str) -> int:
        """Save in a process that dies at a change, and return its exit status."""

        def die() -> None:
            try:
                with watched(Changes(self.place, number, WAYS[way])):
                    self.save()
            except PACKAGE_ERRORS as error:
                # Of another package than the folder's owner it may be, but not without the folder and an advice.
                says_where = str(self.folder) in str(error) and str(error).endswith(".")
                raise SystemExit(REFUSAL if says_where else 1) from error

        return in_child(die)

    @property
    def commit(self) -> int:
        """The number of the change that is the commit."""
        return next(number for number, point in enumerate(self.points) if COMMIT in point)


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[[str], Prepared]:
    """Save the first of a pair, and find what saving the second changes."""

    def prepare(pair: str) -> Prepared:
        kind, old_recipe, new_recipe = PAIRS[pair]
        save, describe = KINDS[kind]
        place, before = tmp_path / "place", tmp_path / "before"
        folder = place / "model"
        place.mkdir()
        for recipe in (old_recipe, new_recipe):
            save(recipe, tmp_path / "once")  # what is made is made before the forks
        save(old_recipe, folder)
        shutil.copytree(place, before)
        old = describe(folder)
        points = points_of(lambda: save(new_recipe, folder), place)
        new = describe(folder)
        assert old != new
        judge = Judge(describe, old, new)
        return Prepared(lambda: save(new_recipe, folder), place, folder, before, points, judge, names_in(place))

    return prepare


def names_in(place: Path) -> list[str]:
    """Return the names of all that is in a place."""
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))


@pytest.mark.parametrize(("pair", "way"), CASES)
def test_a_save_that_dies_leaves_one_whole_model(pair: str, way: str, prepare: Callable[[str], Prepared]) -> None:
    prepared = prepare(pair)
    outcomes: list[tuple[str, str]] = []
    for number, point in enumerate(prepared.points):
        if number < prepared.commit - 1 and pair not in THOROUGH:
            continue
        if way != "killed" and point.startswith("opened"):
            continue  # what can't be opened isn't there
        prepared.put_back()
        status = prepared.die_at(number, way)
        if status == 0:
            # What isn't refused because it needn't be done; a kill always is one.
            assert way != "killed"
            assert prepared.judge(prepared.folder) == "new"
        else:
            assert status == (-signal.SIGKILL if way == "killed" else REFUSAL), point
            outcomes.append((point, prepared.judge(prepared.folder)))
        if way != "killed" and number < prepared.commit:
            assert names_in(prepared.place) == names_in(prepared.before), point
    wrong = [f"{point} → {outcome}" for point, outcome in outcomes if outcome not in ("old", "new")]
    assert not wrong, f"{len(wrong)} of {len(prepared.points)} points:\n" + "\n".join(wrong)
    ages = [outcome for _, outcome in outcomes]
    assert ages == sorted(ages, key=["old", "new"].index), "one change switches from the old model to the new one"


@pytest.mark.parametrize("pair", CLEARED)
def test_the_next_save_clears_what_a_killed_one_left(pair: str, prepare: Callable[[str], Prepared]) -> None:
    prepared = prepare(pair)
    for number in range(len(prepared.points)):
        prepared.put_back()
        assert prepared.die_at(number, "killed") == -signal.SIGKILL
        prepared.save()
        assert names_in(prepared.place) == prepared.names, prepared.points[number]
        assert prepared.judge(prepared.folder) == "new"


def test_a_save_that_finishes_a_killed_one_may_be_killed_too(prepare: Callable[[str], Prepared]) -> None:
    """The folder reads as the second model, of which half the files are in place, or as the third."""
    first = prepare("a pipeline: everything")
    first.put_back()
    assert first.die_at(first.commit + (len(first.points) - first.commit) // 2, "killed") == -signal.SIGKILL
    assert first.judge(first.folder) == "new"
    shutil.rmtree(first.before)
    shutil.copytree(first.place, first.before)
    save, describe = KINDS["pipeline"]

    def save_third() -> None:
        save(OLD, first.folder)

    points = points_of(save_third, first.place)
    judge = Judge(describe, first.judge.new, first.judge.old)
    second = Prepared(save_third, first.place, first.folder, first.before, points, judge, first.names)
    outcomes = []
    for number in range(0, len(points), 1 if ALL else 5):
        second.put_back()
        assert second.die_at(number, "killed") == -signal.SIGKILL
        outcomes.append(second.judge(second.folder))
    assert outcomes == sorted(outcomes, key=["old", "new"].index)
    assert {*outcomes} == {"old", "new"}


def test_savers_of_two_processes_leave_one_whole_model_and_readers_meet_no_other(tmp_path: Path) -> None:
    recipes = {seed: Recipe(seed=seed, levels=1 + seed, layers=1 + seed) for seed in (0, 1)}
    folder = tmp_path / "model"
    known = []
    for recipe in recipes.values():
        save_pipeline(recipe, folder)
        known.append(describe_pipeline(folder))
    children = []
    for recipe in recipes.values():

        def save(recipe: Recipe = recipe) -> None:
            for _ in range(15):
                save_pipeline(recipe, folder)

        children.append(start(save))
    running = set(children)
    while running:
        model = Chameleon.from_pretrained(folder)
        assert model.model.config.num_hidden_layers == len(model.model.model.layers)
        assert model.layout.tokens_per_image == model.processor.image_seq_length
        running -= {child for child in running if os.waitpid(child, os.WNOHANG)[0]}
    assert describe_pipeline(folder) in known
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
