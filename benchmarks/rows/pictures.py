"""Pictures: files to pixels, and a folder of files to codes with the command line."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from chameleon_vq import ChameleonImageProcessor

from .comparing import require_equal
from .rates import alone
from .row import Contest, Goal, Row, Scale, milliseconds


def photograph(width: int, height: int, *, seed: int = 0) -> PIL.Image.Image:
    """Return a picture with what photographs have: gradients, edges and grain."""
    random = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[0:height, 0:width] / max(height, width)
    values_HWC = np.stack([200 * y_HW, 120 + 100 * np.sin(9 * x_HW + seed), 255 * y_HW * x_HW], axis=2)
    for centre_y, centre_x, radius in random.random((8, 3)) * (1, 1, 0.2):
        values_HWC[(y_HW - centre_y) ** 2 + (x_HW - centre_x) ** 2 < radius**2] = random.integers(0, 256, 3)
    grain_HW1 = random.normal(0, 8, (height, width, 1))
    return PIL.Image.fromarray(np.clip(values_HWC + grain_HW1, 0, 255).astype(np.uint8))


def to_pixels(scale: Scale) -> Contest:
    """Return a contest over the milliseconds of the image processor, without decoding a file."""
    width, height = scale.pick((1920, 1080), (1920, 1080), (480, 270))
    picture, (ours, theirs) = photograph(width, height), (ChameleonImageProcessor(), ChameleonImageProcessorPil())
    calls = scale.pick(10, 5, 1)

    def compare() -> None:
        found, expected = (each(picture, return_tensors="pt")["pixel_values"] for each in (ours, theirs))
        require_equal(found, expected, "pixels")

    def resize() -> None:
        picture.resize((width * 512 // height, 512), PIL.Image.Resampling.LANCZOS)

    def repeated(call: Callable[[], object]) -> list[object]:
        return [call() for _ in range(calls)]

    our_side, their_side, limit = (
        milliseconds(partial(repeated, call), per=calls)
        for call in (
            partial(ours, picture, return_tensors="pt"),
            partial(theirs, picture, return_tensors="pt"),
            resize,
        )
    )
    return Contest(our_side, their_side, alone("resizing", limit), compare)


def folder(scale: Scale) -> Contest:
    """Return a contest over the milliseconds of each picture of a folder that ``chameleon-vq encode`` encodes."""
    count = scale.pick(200, 60, 4)
    kept = tempfile.TemporaryDirectory(prefix="chameleon-pictures-")
    files = [Path(kept.name) / f"{number:03}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        photograph(512, 512, seed=number).save(file, quality=90)

    def encode() -> None:
        codes = Path(kept.name) / "codes.safetensors"
        options = ("--tokenizer", "emoji", "--output", str(codes))
        command = [sys.executable, "-m", "chameleon_vq", "encode", kept.name, *options]
        subprocess.run(command, check=True, capture_output=True)
        codes.unlink()

    def decode_file(file: Path) -> None:
        with PIL.Image.open(file) as picture:
            picture.convert("RGB")

    def decode() -> None:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(decode_file, files))

    limit = alone("decoding the files", milliseconds(decode, per=count))
    return Contest(milliseconds(encode, per=count), limit=limit)


ROWS = [
    Row("picture-to-pixels", "a picture of 1920×1080 to pixels", to_pixels, goal=Goal(peer=1.8)),
    Row(
        "folder-command-line",
        "chameleon-vq encode, 200 pictures of 512², 64 pixels a side",
        folder,
        "ms a picture",
        Goal(figure=12.5),
    ),
]
