"""Write the trained parts into the data package: ``python -m recipes.emoji.package``.

Run once, when everything is final: the repository keeps every version of the weights.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import torch
from PIL import Image

from chameleon_vq import ImageTokenizer

from .evaluate import TOKENIZER
from .pictures import DATA, PictureSet, replacing

PACKAGE = Path("packages/chameleon-emoji/src/chameleon_emoji")
SHIPPED_SPLITS = ("withheld-style", "withheld-shape")


def write_tokenizer(tokenizer: ImageTokenizer, folder: Path) -> None:
    """The tokenizer in half precision, which halves the file; it is read back in float32."""
    tokenizer.model.to(torch.float16)
    tokenizer.save_pretrained(folder)


def write_pictures(pictures: PictureSet, folder: Path) -> None:
    """The pictures of the trained styles that were never trained on, as PNG, and what they are as JSON."""
    chosen = pictures.where(lambda picture: picture.core and picture.split in SHIPPED_SPLITS)
    records = []
    for picture, pixels_HWC in zip(chosen.records, chosen.on_white(), strict=True):
        path = f"{picture.style}-{'-'.join(picture.name.replace(':', '').replace('’', '').split())}.png"
        png = io.BytesIO()
        Image.fromarray(pixels_HWC).save(png, format="png", optimize=True)
        with replacing(folder / path) as temporary:
            temporary.write_bytes(png.getvalue())
        described = {"name": picture.name, "style": picture.style, "split": picture.split, "licence": picture.licence}
        records.append({"path": path, **described})
    with replacing(folder / "pictures.json") as temporary:
        temporary.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.package", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="its folder (%(default)s)")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="the package's source (%(default)s)")
    arguments = parser.parse_args()
    tokenizer = ImageTokenizer.from_pretrained(arguments.tokenizer)
    write_tokenizer(tokenizer, arguments.package / "weights" / "image_tokenizer")
    write_pictures(PictureSet.load(arguments.data), arguments.package / "pictures")


if __name__ == "__main__":
    main()
