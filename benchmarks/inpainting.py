"""How well the embedded model completes drawings that it has never seen, beside drawing them anew.

A part of each withheld drawing is masked and drawn again from the rest and the name (``Chameleon.inpaint``). The
comparison is a drawing from the name alone. Figures are the median PSNR, in decibels, of the masked part and of the
part that stays, against the drawing itself; "read and drawn" is what the image tokenizer makes of the drawing's own
codes, which no drawing can exceed by much.

    python benchmarks/inpainting.py                # all withheld drawings, four minutes on two cores
    python benchmarks/inpainting.py --limit 24
    python benchmarks/inpainting.py --sheet inpainting.png   # to look at: drawing, masked, completed, anew
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import chameleon_emoji
from chameleon_core import Chameleon

SIDE = chameleon_emoji.SIDE
Pixels = npt.NDArray[np.uint8]


def masks() -> dict[str, npt.NDArray[np.bool_]]:
    """Return what is drawn again: True there, [H, W]."""
    lower, middle = np.zeros((SIDE, SIDE), dtype=bool), np.zeros((SIDE, SIDE), dtype=bool)
    lower[SIDE // 2 :] = True
    middle[SIDE // 4 : SIDE * 3 // 4, SIDE // 4 : SIDE * 3 // 4] = True
    return {"lower half": lower, "middle": middle}


def psnr(one_HWC: Pixels, other_HWC: Pixels, where_HW: npt.NDArray[np.bool_]) -> float:
    """Return the PSNR of two pictures where ``where_HW`` is True, in decibels, at most 60."""
    difference = (one_HWC.astype(np.float64) - other_HWC)[where_HW]
    return float(min(10 * np.log10(255**2 / max(np.square(difference).mean(), 1e-9)), 60))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="drawings (default: all that are withheld)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--sheet", type=Path, help="write a sheet of the first drawings, too")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    chameleon = Chameleon.from_pretrained("emoji")
    withheld = [picture for picture in chameleon_emoji.pictures() if picture.split != "train"]
    # Drawings of all kinds, whatever the limit.
    withheld = withheld[:: max(len(withheld) // (arguments.limit or len(withheld)), 1)][: arguments.limit]
    prompts = [f"a {picture.style} drawing of a {picture.name}" for picture in withheld]
    real = [np.asarray(picture.image) for picture in withheld]
    codes_BN = chameleon.image_tokenizer.encode([picture.image for picture in withheld])
    read = [np.asarray(image) for image in chameleon.image_tokenizer.decode(codes_BN)]
    anew = [np.asarray(chameleon.draw(prompt, seed=index)) for index, prompt in enumerate(prompts)]

    print(f"{len(real)} withheld drawings; median PSNR in dB")
    print(f"{'mask':12}{'part':10}{'completed':>11}{'drawn anew':>12}{'read and drawn':>16}")
    rows = []
    for name, mask_HW in masks().items():
        completed = [
            np.asarray(chameleon.inpaint(Image.fromarray(real_HWC), mask_HW, prompt, seed=index))
            for index, (real_HWC, prompt) in enumerate(zip(real, prompts, strict=True))
        ]
        for part, where_HW in (("masked", mask_HW), ("kept", ~mask_HW)):
            figures = [
                np.median([psnr(drawn, real_HWC, where_HW) for drawn, real_HWC in zip(drawings, real, strict=True)])
                for drawings in (completed, anew, read)
            ]
            print(f"{name:12}{part:10}{figures[0]:11.1f}{figures[1]:12.1f}{figures[2]:16.1f}", flush=True)
        masked = [np.where(mask_HW[..., None], np.uint8(128), real_HWC) for real_HWC in real]
        rows += [masked, completed]
    if arguments.sheet is not None:
        count = min(len(real), 12)
        columns = [np.concatenate(row[:count], axis=1) for row in (real, *rows, anew)]
        Image.fromarray(np.concatenate(columns, axis=0)).save(arguments.sheet)


if __name__ == "__main__":
    main()
