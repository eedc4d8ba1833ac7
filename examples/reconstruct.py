"""Encode a picture to codes with chameleon-vq, decode the codes, and put both pictures side by side.

    python examples/reconstruct.py                                      # a generated picture, random weights
    python examples/reconstruct.py --picture cat.jpg --tokenizer path/to/chameleon-7b

Without a tokenizer the weights are random, and the reconstruction is noise. Writes reconstruction.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import PIL.Image

from chameleon_vq import ImageTokenizer, reconstruct
from chameleon_vq.testing import make_image_tokenizer


def sunset(height: int = 240, width: int = 320) -> PIL.Image.Image:
    """Draw a picture of a sunset: uint8 RGB."""
    rows, columns = np.mgrid[0:height, 0:width]
    sky = np.stack([255 - rows // 4, 200 - rows // 2, 60 + rows // 2], axis=2)
    sky[(rows - height * 0.6) ** 2 + (columns - width * 0.6) ** 2 < (height / 6) ** 2] = (255, 240, 150)
    sky[rows > height * 0.6] = (20, 40, 90)
    return PIL.Image.fromarray(sky.astype(np.uint8))


def main() -> None:
    """Read the arguments, reconstruct the picture, and print what its codes are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="picture file; by default, a generated sunset")
    parser.add_argument("--tokenizer", help="folder of a model or an image tokenizer, or a registered name")
    parser.add_argument("--output", type=Path, default=Path("reconstruction.png"))
    arguments = parser.parse_args()

    if arguments.tokenizer is None:
        print("No --tokenizer given: the weights are random, and the reconstruction is noise.")
        tokenizer = make_image_tokenizer(resolution=256, levels=5, num_codes=8192)
    else:
        tokenizer = ImageTokenizer.from_pretrained(arguments.tokenizer)

    [result] = reconstruct(tokenizer, arguments.picture or sunset())
    codes_N = tokenizer.encode(result.original)[0]
    height, width = tokenizer.latent_size
    print(f"{height}×{width} codes of {tokenizer.num_codes}, {len(codes_N.unique())} of them different.")
    print(f"The first codes: {', '.join(str(code) for code in codes_N[:8].tolist())}")
    print(f"Peak signal-to-noise ratio of the reconstruction: {result.psnr:.2f} dB")
    result.side_by_side().save(arguments.output)
    print(f"Both pictures are in {arguments.output}")


if __name__ == "__main__":
    main()
