"""Seconds to encode and decode one picture at full size on a CPU, beside the encoder of ``transformers``.

Weights are random. Variants take turns, so that other load on the machine slows all of them; the medians are printed
with their ratio to ``transformers``.

    python benchmarks/image_tokenizer.py --resolution 512 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE as PeerVQVAE

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=512, help="side of the picture in pixels (default: 512)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each variant (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    peer = PeerVQVAE(transformers.ChameleonVQVAEConfig()).eval()
    ours = ChameleonVQVAE(ChameleonVQVAEConfig()).eval()
    half = ChameleonVQVAE(ChameleonVQVAEConfig()).eval().bfloat16()
    pixels_BCHW = torch.rand(1, 3, arguments.resolution, arguments.resolution) * 2 - 1
    codes_Bhw = ours.encode(pixels_BCHW).codes_Bhw
    variants: dict[str, Callable[[], object]] = {
        "transformers, encode": lambda: peer.encode(pixels_BCHW),
        "encode": lambda: ours.encode(pixels_BCHW),
        "encode, bfloat16": lambda: half.encode(pixels_BCHW.bfloat16()),
        "decode": lambda: ours.decode(codes_Bhw),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for _ in range(arguments.repeats + 1):
            for name, run in variants.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
    # The first turn warms up.
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    theirs = medians["transformers, encode"]
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.resolution} pixels a side")
    for name, median in medians.items():
        print(f"{name:<34}{median:8.2f} s  {theirs / median:6.2f}×")


if __name__ == "__main__":
    with torch.no_grad():
        main()
