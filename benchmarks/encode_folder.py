"""Pictures a second that ``chameleon-vq encode`` encodes, as a whole process, and where the processor's time goes.

Pictures are drawn from random numbers, half of them as PNG and half as JPEG, and encoded by the embedded model's image
tokenizer of 64×64 pixels, or by another one.

    python benchmarks/encode_folder.py --pictures 200 --side 512 --threads 2
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200, help="pictures in the folder (default: 200)")
    parser.add_argument("--side", type=int, default=512, help="their side in pixels (default: 512)")
    parser.add_argument("--tokenizer", default="emoji", help="folder or name of the image tokenizer (default: emoji)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest is printed (default: 3)")
    arguments = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory() as name:
        folder, codes = Path(name, "pictures"), Path(name, "codes.safetensors")
        folder.mkdir()
        draw(folder, arguments.pictures, arguments.side)
        encode = ["-m", "chameleon_vq", "encode", str(folder), "-t", arguments.tokenizer, "-o", str(codes)]
        for what, command in (("import torch", ["-c", "import torch"]), ("chameleon-vq encode", encode)):
            runs = [measure([sys.executable, *command], environment) for _ in range(arguments.repeats)]
            wall, processor = (min(each) for each in zip(*runs, strict=True))
            print(f"{what:<20} {wall:6.2f} s, of processors {processor:6.2f} s", end="")
            print(f", {arguments.pictures / wall:6.1f} pictures/s" if command is encode else "")


def draw(folder: Path, pictures: int, side: int) -> None:
    """Write pictures with smooth colours and fine grain, as photographs have."""
    random = np.random.default_rng(0)
    for number in range(pictures):
        colours = PIL.Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((side, side), PIL.Image.Resampling.BICUBIC), dtype=np.float32)
        image = PIL.Image.fromarray(np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))
        image.save(folder / f"{number:05}.{'jpg' if number % 2 else 'png'}")


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds that a command takes, by the clock and of all processors."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
