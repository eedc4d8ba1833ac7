"""Measure the image tokenizer on withheld pictures: ``python -m recipes.emoji.evaluate``.

Prints a table and writes, into its folder, ``tokenizer.json`` (the figures) and ``tokenizer.png`` (pictures above
their reconstructions). Everything goes through ``ImageTokenizer``, as it does for a user.

Shapes: B pictures, J training pictures, F pixel values of a picture, N codes of a picture, H W pixels, C channels.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage.data
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from chameleon_core.evaluation.embedded_requests import GROUNDS, is_withheld
from chameleon_vq import ImageTokenizer
from chameleon_vq.training import codebook_figures, compare

from .augment import Placement, on_canvas, scene
from .pictures import DATA, SIDE, PictureSet, replacing

TOKENIZER = Path("build/emoji/tokenizer/tokenizer")
RESULTS = Path("build/emoji/evaluation")
SCENES = 200
Bytes = npt.NDArray[np.uint8]
THUMBNAIL_SIDE = 8
THUMBNAIL_BITS = (4, 4, 4)
"""8×8 pixels of 12 bits are 768 bits, the same as 64 codes of 4,096."""


@dataclass(frozen=True)
class TokenizerFigures:
    """The figures of one set of pictures; PSNR in dB, means over the pictures."""

    name: str
    pictures: int
    psnr: float
    ssim: float
    psnr_lowest_tenth: float
    """The mean over the tenth of the pictures with the lowest PSNR."""
    codebook_usage: float
    perplexity: float
    psnr_thumbnail: float
    """Baseline: a thumbnail with the same number of bits, enlarged."""
    psnr_nearest: float | None
    """Baseline: the nearest training picture; None for training pictures."""


def evaluation_sets(pictures: PictureSet) -> Iterator[tuple[str, Bytes]]:
    """Yield the names and pictures [B, 64, 64, 3] of the sets to measure; only ``trained on`` is training data."""
    withheld = pictures.where(lambda picture: picture.split == "withheld-style")
    yield "withheld emoji of the trained styles", withheld.on_white()
    unseen = pictures.where(lambda picture: picture.split == "withheld-emoji")
    yield "emoji withheld in every style", unseen.on_white()
    yield "withheld colour and shape", pictures.where(lambda picture: picture.split == "withheld-shape").on_white()
    yield "withheld scenes and grounds", withheld_scenes(withheld)
    yield "an unseen artist (emojione)", pictures.where(lambda picture: picture.split == "unseen-artist").on_white()
    yield "photographs", photographs()
    trained = pictures.where(lambda picture: picture.split == "train" and picture.core)
    yield "trained on (a sample)", trained.on_white()[:: len(trained) // 250]


def withheld_scenes(pictures: PictureSet) -> Bytes:
    """Return withheld compositions of withheld pictures: uint8 [B, 64, 64, 3]."""
    random = np.random.default_rng(0)
    scenes: list[Bytes] = []
    while len(scenes) < SCENES:
        first, second = random.integers(len(pictures), size=2)
        names = pictures.records[first].name, pictures.records[second].name
        rgba_HWC = pictures.rgba_BHWC[first]
        if len(scenes) % 2:
            colour = str(random.choice([name for name in GROUNDS if name != "white"]))
            if is_withheld(names[0], f"{colour} ground"):
                scenes.append(on_canvas(rgba_HWC, Placement.near_whole(random), GROUNDS[colour]))
        elif names[0] != names[1] and is_withheld(*names):
            scenes.append(scene(rgba_HWC, pictures.rgba_BHWC[second], "left of"))
    return np.stack(scenes)


def photographs() -> Bytes:
    """Return the middle squares of six photographs, downscaled: uint8 [6, 64, 64, 3]."""
    arrays = [getattr(skimage.data, name)() for name in ("chelsea", "coffee", "rocket", "hubble_deep_field")]
    arrays += load_sample_images().images
    return np.stack([_middle_square(Image.fromarray(array).convert("RGB")) for array in arrays])


def evaluate_tokenizer(tokenizer: ImageTokenizer, pictures: PictureSet) -> list[TokenizerFigures]:
    """Return the figures of every set."""
    trained = pictures.where(lambda picture: picture.split == "train").on_white()
    figures = []
    for name, real_BHWC in evaluation_sets(pictures):
        drawn_BHWC, codes_BN = reconstructions(tokenizer, real_BHWC)
        rows = np.array(compare(_channels_first(real_BHWC), _channels_first(drawn_BHWC)))
        usage = torch.bincount(codes_BN.flatten(), minlength=tokenizer.num_codes)
        learned = name.startswith("trained on")
        figures.append(
            TokenizerFigures(
                name,
                len(real_BHWC),
                float(rows[:, 0].mean()),
                float(rows[:, 1].mean()),
                float(np.sort(rows[:, 0])[: max(1, len(rows) // 10)].mean()),
                *codebook_figures(usage),
                psnr_thumbnail=_mean_psnr(real_BHWC, thumbnails(real_BHWC)),
                psnr_nearest=None if learned else _mean_psnr(real_BHWC, nearest(real_BHWC, trained)),
            )
        )
    return figures


def reconstructions(tokenizer: ImageTokenizer, pictures_BHWC: Bytes) -> tuple[Bytes, torch.Tensor]:
    """Return pictures after encoding and decoding, and their codes."""
    codes_BN = tokenizer.encode(list(pictures_BHWC), batch_size=32)
    return np.stack([np.asarray(image) for image in tokenizer.decode(codes_BN, batch_size=32)]), codes_BN


def core_usage(tokenizer: ImageTokenizer, pictures: PictureSet) -> float:
    """Return the fraction of the codebook that the pictures of the trained styles use together, on white."""
    every = pictures.where(lambda picture: picture.core)
    codes_BN = tokenizer.encode(list(every.on_white()), batch_size=32)
    return len(torch.unique(codes_BN)) / tokenizer.num_codes


def thumbnails(pictures_BHWC: Bytes) -> Bytes:
    """Return pictures as thumbnails of as many bits: 8×8 pixels of 4 bits per channel, enlarged smoothly."""
    levels = np.array([2**bits - 1 for bits in THUMBNAIL_BITS])
    enlarged = []
    for picture_HWC in pictures_BHWC:
        small = Image.fromarray(picture_HWC).resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
        rounded = np.rint(np.rint(np.asarray(small) / 255 * levels) / levels * 255).astype(np.uint8)
        enlarged.append(np.asarray(Image.fromarray(rounded).resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(enlarged)


def nearest(pictures_BHWC: Bytes, trained_JHWC: Bytes) -> Bytes:
    """Return for each picture the training picture with the least mean squared difference."""
    trained_JF = trained_JHWC.reshape(len(trained_JHWC), -1).astype(np.float32)
    norms_J = np.einsum("jf,jf->j", trained_JF, trained_JF)
    found = []
    for start in range(0, len(pictures_BHWC), 256):
        part_BF = pictures_BHWC[start : start + 256].reshape(-1, trained_JF.shape[1]).astype(np.float32)
        found.append((norms_J - 2 * part_BF @ trained_JF.T).argmin(axis=1))
    return trained_JHWC[np.concatenate(found)]


def contact_sheet(tokenizer: ImageTokenizer, pictures: PictureSet, *, columns: int = 10) -> Image.Image:
    """Return for each set a row of pictures above a row of their reconstructions, enlarged twice."""
    rows = []
    for name, real_BHWC in evaluation_sets(pictures):
        random = np.random.default_rng(zlib.crc32(name.encode()))
        chosen = np.sort(random.permutation(len(real_BHWC))[:columns])
        drawn_BHWC, _ = reconstructions(tokenizer, real_BHWC[chosen])
        for part_BHWC in (real_BHWC[chosen], drawn_BHWC):
            row_HWC = np.full((SIDE, columns * SIDE, 3), 255, np.uint8)
            row_HWC[:, : len(chosen) * SIDE] = np.concatenate(list(part_BHWC), axis=1)
            rows.append(row_HWC)
        rows.append(np.full((4, columns * SIDE, 3), 128, np.uint8))
    sheet = Image.fromarray(np.concatenate(rows[:-1]))
    return sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)


def _mean_psnr(real_BHWC: Bytes, other_BHWC: Bytes) -> float:
    return float(np.mean([psnr for psnr, _ in compare(_channels_first(real_BHWC), _channels_first(other_BHWC))]))


def _channels_first(pictures_BHWC: Bytes) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures_BHWC.transpose(0, 3, 1, 2)))


def _middle_square(image: Image.Image) -> Bytes:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _table(figures: list[TokenizerFigures]) -> Table:
    table = Table(title="Image tokenizer: 64×64 pixels, 64 codes per picture")
    heads = ("set", "pictures", "PSNR", "SSIM", "worst tenth", "codes used", "thumbnail", "nearest")
    for head in heads:
        table.add_column(head, justify="left" if head == "set" else "right")
    for row in figures:
        table.add_row(
            row.name,
            str(row.pictures),
            f"{row.psnr:.2f}",
            f"{row.ssim:.3f}",
            f"{row.psnr_lowest_tenth:.2f}",
            f"{row.codebook_usage:.1%}",
            f"{row.psnr_thumbnail:.2f}",
            "" if row.psnr_nearest is None else f"{row.psnr_nearest:.2f}",
        )
    return table


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--tokenizer", default=TOKENIZER, help="folder or registered name (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder for the results (%(default)s)")
    arguments = parser.parse_args()
    tokenizer = ImageTokenizer.from_pretrained(arguments.tokenizer)
    pictures = PictureSet.load(arguments.data)
    figures = evaluate_tokenizer(tokenizer, pictures)
    usage = core_usage(tokenizer, pictures)
    console = Console(width=120)
    console.print(_table(figures))
    console.print(f"Codes used by all pictures of the trained styles together: {usage:.1%}")
    with replacing(arguments.output / "tokenizer.json") as temporary:
        report = {"codebook_usage_of_the_trained_styles": usage, "sets": [asdict(row) for row in figures]}
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    with replacing(arguments.output / "tokenizer.png") as temporary:
        contact_sheet(tokenizer, pictures).save(temporary, format="png")


if __name__ == "__main__":
    main()
