"""Measure the trained parts on what they never learned from: ``python -m recipes.emoji.evaluate``.

Prints a table and writes, into its folder, ``tokenizer.json`` (the figures) and ``tokenizer.png`` (pictures beside
their reconstructions). Everything goes through ``ImageTokenizer``, as it does for a user.

Shapes: N pictures, M training pictures, F pixel values of a picture, K codes.
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

from chameleon_vq import ImageTokenizer
from chameleon_vq.training import codebook_figures, compare

from .augment import GROUNDS, Placement, on_canvas, scene
from .pictures import DATA, SIDE, PictureSet, replacing
from .splits import scene_is_withheld

TOKENIZER = Path("build/emoji/tokenizer/tokenizer")
RESULTS = Path("build/emoji/evaluation")
SCENES = 200
Bytes = npt.NDArray[np.uint8]
THUMBNAIL_SIDE = 8
THUMBNAIL_BITS = (4, 4, 4)
"""8×8 pixels of 12 bits are 768 bits, as 64 codes of 4,096 are."""


@dataclass(frozen=True)
class TokenizerFigures:
    """The figures of one set of pictures; PSNR in dB, means over the pictures."""

    name: str
    pictures: int
    psnr: float
    ssim: float
    psnr_lowest_tenth: float
    """The mean over the tenth of the pictures that come out worst."""
    codebook_usage: float
    perplexity: float
    psnr_thumbnail: float
    """Baseline: a thumbnail of as many bits, enlarged."""
    psnr_nearest: float | None
    """Baseline: the nearest training picture; none for pictures that are training pictures."""


def evaluation_sets(pictures: PictureSet) -> Iterator[tuple[str, Bytes]]:
    """Names and pictures [N, 64, 64, 3] of what is measured; only ``trained on`` was learned from."""
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
    """Compositions that training never shows, of pictures that it never shows: uint8 [N, 64, 64, 3]."""
    random = np.random.default_rng(0)
    scenes: list[Bytes] = []
    while len(scenes) < SCENES:
        first, second = random.integers(len(pictures), size=2)
        names = pictures.records[first].name, pictures.records[second].name
        rgba_HWC = pictures.rgba_NHWC[first]
        if len(scenes) % 2:
            colour = str(random.choice([name for name in GROUNDS if name != "white"]))
            if scene_is_withheld(names[0], f"{colour} ground"):
                scenes.append(on_canvas(rgba_HWC, Placement.near_whole(random), GROUNDS[colour]))
        elif names[0] != names[1] and scene_is_withheld(*names):
            scenes.append(scene(rgba_HWC, pictures.rgba_NHWC[second], "left of"))
    return np.stack(scenes)


def photographs() -> Bytes:
    """Six photographs, the middle square of each, reduced: uint8 [6, 64, 64, 3]."""
    arrays = [getattr(skimage.data, name)() for name in ("chelsea", "coffee", "rocket", "hubble_deep_field")]
    arrays += load_sample_images().images
    return np.stack([_middle_square(Image.fromarray(array).convert("RGB")) for array in arrays])


def evaluate_tokenizer(tokenizer: ImageTokenizer, pictures: PictureSet) -> list[TokenizerFigures]:
    """The figures of every set."""
    trained = pictures.where(lambda picture: picture.split == "train").on_white()
    figures = []
    for name, real_NHWC in evaluation_sets(pictures):
        drawn_NHWC, codes_NK = reconstructions(tokenizer, real_NHWC)
        rows = np.array(compare(_channels_first(real_NHWC), _channels_first(drawn_NHWC)))
        usage = torch.bincount(codes_NK.flatten(), minlength=tokenizer.num_codes)
        learned = name.startswith("trained on")
        figures.append(
            TokenizerFigures(
                name,
                len(real_NHWC),
                float(rows[:, 0].mean()),
                float(rows[:, 1].mean()),
                float(np.sort(rows[:, 0])[: max(1, len(rows) // 10)].mean()),
                *codebook_figures(usage),
                psnr_thumbnail=_mean_psnr(real_NHWC, thumbnails(real_NHWC)),
                psnr_nearest=None if learned else _mean_psnr(real_NHWC, nearest(real_NHWC, trained)),
            )
        )
    return figures


def reconstructions(tokenizer: ImageTokenizer, pictures_NHWC: Bytes) -> tuple[Bytes, torch.Tensor]:
    """Pictures after encoding and decoding, and their codes."""
    codes_NK = tokenizer.encode(list(pictures_NHWC), batch_size=32)
    return np.stack([np.asarray(image) for image in tokenizer.decode(codes_NK, batch_size=32)]), codes_NK


def core_usage(tokenizer: ImageTokenizer, pictures: PictureSet) -> float:
    """The fraction of the codebook that all pictures of the trained styles use together, on white."""
    every = pictures.where(lambda picture: picture.core)
    codes_NK = tokenizer.encode(list(every.on_white()), batch_size=32)
    return len(torch.unique(codes_NK)) / tokenizer.num_codes


def thumbnails(pictures_NHWC: Bytes) -> Bytes:
    """What as many bits hold as pixels: 8×8 of them, 4, 4 and 3 bits for red, green and blue, enlarged smoothly."""
    levels = np.array([2**bits - 1 for bits in THUMBNAIL_BITS])
    enlarged = []
    for picture_HWC in pictures_NHWC:
        small = Image.fromarray(picture_HWC).resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
        rounded = np.rint(np.rint(np.asarray(small) / 255 * levels) / levels * 255).astype(np.uint8)
        enlarged.append(np.asarray(Image.fromarray(rounded).resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(enlarged)


def nearest(pictures_NHWC: Bytes, trained_MHWC: Bytes) -> Bytes:
    """The training picture with the least mean square difference from each picture."""
    trained_MF = trained_MHWC.reshape(len(trained_MHWC), -1).astype(np.float32)
    norms_M = np.einsum("mf,mf->m", trained_MF, trained_MF)
    found = []
    for start in range(0, len(pictures_NHWC), 256):
        part_NF = pictures_NHWC[start : start + 256].reshape(-1, trained_MF.shape[1]).astype(np.float32)
        found.append((norms_M - 2 * part_NF @ trained_MF.T).argmin(axis=1))
    return trained_MHWC[np.concatenate(found)]


def contact_sheet(tokenizer: ImageTokenizer, pictures: PictureSet, *, columns: int = 10) -> Image.Image:
    """For each set a row of pictures above a row of their reconstructions, twice enlarged."""
    rows = []
    for name, real_NHWC in evaluation_sets(pictures):
        random = np.random.default_rng(zlib.crc32(name.encode()))
        chosen = np.sort(random.permutation(len(real_NHWC))[:columns])
        drawn_NHWC, _ = reconstructions(tokenizer, real_NHWC[chosen])
        for part_NHWC in (real_NHWC[chosen], drawn_NHWC):
            row_HWC = np.full((SIDE, columns * SIDE, 3), 255, np.uint8)
            row_HWC[:, : len(chosen) * SIDE] = np.concatenate(list(part_NHWC), axis=1)
            rows.append(row_HWC)
        rows.append(np.full((4, columns * SIDE, 3), 128, np.uint8))
    sheet = Image.fromarray(np.concatenate(rows[:-1]))
    return sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)


def _mean_psnr(real_NHWC: Bytes, other_NHWC: Bytes) -> float:
    return float(np.mean([psnr for psnr, _ in compare(_channels_first(real_NHWC), _channels_first(other_NHWC))]))


def _channels_first(pictures_NHWC: Bytes) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures_NHWC.transpose(0, 3, 1, 2)))


def _middle_square(image: Image.Image) -> Bytes:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _table(figures: list[TokenizerFigures]) -> Table:
    table = Table(title="Image tokenizer: 64×64 pixels, 64 codes a picture")
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
    """The command."""
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
