"""Write the trained model and its pictures into the data package: ``python -m recipes.emoji.package``.

Run it once, when everything is final: the repository keeps every version of the weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from chameleon_core import Chameleon
from chameleon_core.evaluation.embedded_requests import STYLES

from .compositions import is_taught
from .finetune import FINETUNED
from .pictures import DATA, SIDE, PictureSet, replacing
from .prompts import GROUPS
from .trials import DRAWING

PACKAGE = Path("packages/chameleon-emoji/src/chameleon_emoji")
SHIPPED_SPLITS = ("train", "withheld-style", "withheld-shape")
COLUMNS = 30


def write_model(chameleon: Chameleon, folder: Path) -> None:
    """Write the model in half the bytes: the transformer in bfloat16, the image tokenizer in float16, as it is.

    The config still says float32, so that ``dtype="auto"`` computes as in training.
    """
    chameleon.model.to(torch.bfloat16)
    chameleon.model.generation_options = DRAWING
    chameleon.image_tokenizer.model.to(torch.float16)
    chameleon.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"dtype": "float32", "torch_dtype": "float32"}
    with replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_pictures(pictures: PictureSet, folder: Path) -> None:
    """Write the transformer's pictures on white, one sheet per style, and their records as JSON."""
    records = []
    for style in STYLES:
        chosen = pictures.where(
            lambda picture, style=style: (
                picture.core and is_taught(picture.name) and picture.style == style and picture.split in SHIPPED_SPLITS
            )
        )
        white_BHWC = chosen.on_white()
        rows = -(-len(chosen) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE), "white")
        for index, (picture, pixels_HWC) in enumerate(zip(chosen.records, white_BHWC, strict=True)):
            row, column = divmod(index, COLUMNS)
            sheet.paste(Image.fromarray(np.ascontiguousarray(pixels_HWC)), (column * SIDE, row * SIDE))
            described = {"name": picture.name, "style": style, "split": picture.split}
            described |= {"group": GROUPS.get(picture.group or 0), "licence": picture.licence, "place": [column, row]}
            records.append(described)
        with replacing(folder / f"{style}.webp") as temporary:
            # Three fifths of a PNG's bytes.
            sheet.save(temporary, format="webp", lossless=True, quality=90, method=6)
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    with replacing(folder / "pictures.json") as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.package", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--model", type=Path, default=FINETUNED / "model", help="the model's folder (%(default)s)")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="the package's source (%(default)s)")
    arguments = parser.parse_args()
    write_model(Chameleon.from_pretrained(arguments.model), arguments.package / "model")
    write_pictures(PictureSet.load(arguments.data), arguments.package / "pictures")


if __name__ == "__main__":
    main()
