"""Work that is killed or interrupted at a random moment, and done again: nothing lost, nothing half-written.

For each kind of work: what it leaves is whole, what it had finished stays, and once the same work is done again the
result is that of a process which was never disturbed. Each is tried twice, and ten times with CHAMELEON_KILLS=all.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from chameleon_core.training import TokenDataset, TokenDatasetWriter, TokenDocument, Trainer
from chameleon_core.training import TrainingOptions as CoreOptions
from chameleon_vq import ChameleonVQVAE, ImageTokenizer, read_codes, write_codes
from chameleon_vq.cli.app import app
from chameleon_vq.training import TensorPictures, TrainingOptions, VQTrainer

from .killing import in_child, start, wait_for
from .test_killed_saves import Recipe, describe_pipeline, digest, make_image_tokenizer, make_pipeline, save_pipeline

KILLS = 5 if os.environ.get("CHAMELEON_KILLS") == "all" else 1
"""For each kind of work and each signal."""
NUM_PICTURES = 24
NUM_DOCUMENTS = 40
STEPS = 8
OLD, NEW = Recipe(seed=1, codes=8), Recipe(seed=2, quantization="int8", max_shard_size="5KB")

Found = Mapping[str, Any]
"""What a folder has: a value that can be compared for each thing by name."""


@dataclass(frozen=True)
class Work:
    """Something that a process does in a folder, and can do again."""

    prepare: Callable[[Path], object]
    """Makes what the work takes."""
    do: Callable[[Path], object]
    find: Callable[[Path], Found]
    """What is there, read as a user reads it. Whatever is half-written raises."""
    replaces: bool = False
    """Whether there is something before, which stays until the new is whole."""


def command(*arguments: object) -> None:
    """Run ``chameleon-vq``, and end with its exit status."""
    sys.exit(get_command(app).main([str(each) for each in arguments], "chameleon-vq", standalone_mode=False))


@cache
def image_tokenizer() -> ImageTokenizer:
    return make_image_tokenizer(NEW)


def picture_name(number: int) -> str:
    return f"{number:02d}.png"


def prepare_pictures(folder: Path) -> None:
    image_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "pictures").mkdir()
    for number in range(NUM_PICTURES):
        values_HWC = np.random.default_rng(number).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(values_HWC).save(folder / "pictures" / picture_name(number))


def encode(folder: Path) -> None:
    options = ("-t", folder / "tokenizer", "-o", folder / "out" / "codes.safetensors", "--batch-size", 1)
    command("encode", folder / "pictures", *options)


def find_codes(folder: Path) -> Found:
    path = folder / "out" / "codes.safetensors"
    if not path.exists():
        return {}
    file = read_codes(path)
    file.check_tokenizer(image_tokenizer())
    return dict(zip(file.names, file.codes_BN.tolist(), strict=True))


def prepare_codes(folder: Path) -> None:
    tokenizer = image_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = (NUM_PICTURES, tokenizer.tokens_per_image)
    codes_BN = torch.from_numpy(np.random.default_rng(0).integers(0, tokenizer.num_codes, shape))
    names = [picture_name(number) for number in range(NUM_PICTURES)]
    write_codes(folder / "codes.safetensors", codes_BN, names=names, tokenizer=tokenizer)


def decode(folder: Path) -> None:
    options = ("-t", folder / "tokenizer", "-o", folder / "out", "--batch-size", 1)
    command("decode", folder / "codes.safetensors", *options)


def find_pictures(folder: Path) -> Found:
    return {path.name: np.asarray(Image.open(path)).tolist() for path in sorted((folder / "out").glob("*.png"))}


def train_image_tokenizer(folder: Path) -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(image_tokenizer().model.config)
    options = TrainingOptions(
        steps=STEPS, batch_size=2, kmeans_pictures=4, warmup_steps=1, checkpoint_every=2, log_every=1
    )
    pictures = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    VQTrainer(model, options, folder=folder / "out").fit(TensorPictures(pictures))


def find_image_tokenizer_run(folder: Path) -> Found:
    path = folder / "out" / "checkpoint.pt"
    if not path.exists():
        return {}
    state = torch.load(path, weights_only=True)
    return {f"step {state['step']}": digest(state["model"])}


def train_model(folder: Path) -> None:
    model = make_pipeline(OLD).model.requires_grad_(True)
    documents = [TokenDocument.of(str(number), [0, 10 + number, 20, 2]) for number in range(8)]
    options = CoreOptions(steps=STEPS, batch_size=2, warmup_steps=0, sequence_length=16, save_every=2)
    Trainer(model, documents, options, folder / "out").run(draw_curves=False)
    model.save_pretrained(folder / "trained")


def find_model(folder: Path) -> Found:
    path = folder / "trained"
    return {"trained": digest(read_weights(path))} if path.exists() and any(path.glob("*.json")) else {}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(type(make_pipeline(OLD).model).from_pretrained(folder).state_dict())


def document(number: int) -> TokenDocument:
    return TokenDocument.of(f"document {number}", [number, number + 1, 2 * number])


def write_dataset(folder: Path) -> None:
    with TokenDatasetWriter(folder / "out", tokenizer_hash="abc", vocab_size=300, shard_size=9) as writer:
        for number in range(NUM_DOCUMENTS):
            if f"document {number}" not in writer:
                writer.add(document(number))


def find_documents(folder: Path) -> Found:
    if not (folder / "out" / "dataset.json").exists():
        return {}
    return {each.key: each.ids.tolist() for each in TokenDataset(folder / "out")}


WORK = {
    "encode": Work(prepare_pictures, encode, find_codes),
    "decode": Work(prepare_codes, decode, find_pictures),
    "train an image tokenizer": Work(lambda _: None, train_image_tokenizer, find_image_tokenizer_run),
    "train a model": Work(lambda _: None, train_model, find_model),
    "dataset": Work(lambda _: None, write_dataset, find_documents),
    "save": Work(
        lambda folder: save_pipeline(OLD, folder / "out"),
        lambda folder: save_pipeline(NEW, folder / "out"),
        lambda folder: describe_pipeline(folder / "out"),
        replaces=True,
    ),
}
SIGNALS = {"killed": signal.SIGKILL, "interrupted": signal.SIGINT}


@dataclass(frozen=True)
class Undisturbed:
    """What a process does that nothing happens to."""

    work: Work
    before: Found
    after: Found
    seconds: float


def quietly(do: Callable[[Path], object], folder: Path) -> None:
    """Do something as a process of its own does, its output put aside."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    do(folder)


@pytest.fixture(scope="module", params=WORK)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    work = WORK[request.param]
    folder = tmp_path_factory.mktemp("undisturbed")
    # Here, so that no child makes or imports them: optimizers import torch's compiler.
    make_pipeline(OLD), make_pipeline(NEW), image_tokenizer()
    importlib.import_module("torch._dynamo")
    work.prepare(folder)
    before = work.find(folder) if work.replaces else {}
    began = time.monotonic()
    assert in_child(partial(quietly, work.do, folder)) == 0
    return Undisturbed(work, before, work.find(folder), time.monotonic() - began)


@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("way", SIGNALS)
def test_disturbed_work_is_done_again_as_if_nothing_had_been(
    undisturbed: Undisturbed, way: str, number: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    work = undisturbed.work
    work.prepare(tmp_path)
    moment = Random(request.node.name).uniform(0, undisturbed.seconds)

    child = start(partial(quietly, work.do, tmp_path))
    time.sleep(moment)
    os.kill(child, SIGNALS[way])  # of a process that ended, too: nobody has asked for its status yet
    status = wait_for(child, 60)

    left = work.find(tmp_path)
    assert status in (0, 1, 130, -SIGNALS[way])
    if work.replaces:
        assert left in (undisturbed.before, undisturbed.after)
    elif work is not WORK["train an image tokenizer"]:  # whose checkpoints on the way are others
        assert left.items() <= undisturbed.after.items()
    if status == 0:
        assert left == undisturbed.after

    assert in_child(partial(quietly, work.do, tmp_path)) == 0
    assert work.find(tmp_path) == undisturbed.after
    written = [path for path in tmp_path.rglob("*.tmp*") if path.is_file()]
    assert not written, "what the killed process left is cleared away"
