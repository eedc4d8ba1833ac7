"""Pictures a second that a data set is tokenized at, by one worker and by two.

Pictures are drawn from random numbers, and encoded by the embedded model's image tokenizer of 64×64 pixels or another
one. Jobs with one worker and with two take turns; of each, the fastest counts. The time is that of the whole job: that
processes start, too. It says something only where two processors do nothing else.

    python benchmarks/tokenize_dataset.py --pictures 2000 --side 256
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

from chameleon_core.tokenization import tokenize_dataset


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000, help="pictures of the data set (default: 2000)")
    parser.add_argument("--side", type=int, default=256, help="their side in pixels (default: 256)")
    parser.add_argument("--model", default="emoji", help="folder or name of the model (default: emoji)")
    parser.add_argument("--ray", help="address of a Ray cluster, or local; by default the processes are started here")
    parser.add_argument("--repeats", type=int, default=3, help="jobs of each, of which the fastest counts (default: 3)")
    arguments = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "pictures")
        draw(source, arguments.pictures, arguments.side)
        draw(Path(name, "few"), 2, arguments.side)
        # What the processes are started from is started with the first job.
        tokenize_dataset(arguments.model, [Path(name, "few")], Path(name, "warm"), workers=1, ray=arguments.ray)
        for repeat in range(arguments.repeats):
            for workers, taken in seconds.items():
                output = Path(name, f"{workers}-{repeat}")
                began = time.perf_counter()
                done = tokenize_dataset(
                    arguments.model, [source], output, workers=workers, ray=arguments.ray, unit_size=50
                )
                taken.append(time.perf_counter() - began)
                assert done.documents == arguments.pictures
    one, two = (min(each) for each in seconds.values())
    print(f"one worker:  {one:6.2f} s, {arguments.pictures / one:7.1f} pictures/s")
    print(f"two workers: {two:6.2f} s, {arguments.pictures / two:7.1f} pictures/s, {one / two:.2f} times as fast")


def draw(folder: Path, pictures: int, side: int) -> None:
    """Write smooth pictures with captions beside them."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(pictures):
        colours = PIL.Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        colours.resize((side, side), PIL.Image.Resampling.BICUBIC).save(folder / f"{number:05}.png")
        (folder / f"{number:05}.txt").write_text("colours", encoding="utf-8")


if __name__ == "__main__":
    main()
