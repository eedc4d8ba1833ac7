"""What a cache of keys and values costs in quality, memory and time, on the embedded model.

Quality is measured on drawings, learned and withheld ones, which are read code by code: the mean negative
log-likelihood of the right code in nats, and the share of codes for which the likeliest one is that of the first cache.
Memory is bytes of a position in all layers. Time is that of drawing eight pictures in one batch, the least of the
repeats.

    python benchmarks/caches.py
    python benchmarks/caches.py --caches dynamic int8 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import time
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional as F

import chameleon_emoji
from chameleon_core import Chameleon


def logits_of(chameleon: Chameleon, ids: list[int], cache_name: str) -> tuple[Tensor, float]:
    """Return the logits of picture codes after each id, float32 [T, Z], and the bytes that a position took."""
    model = chameleon.model
    cache = model.new_lane_cache(cache_name)
    lane = cache.add(len(ids))
    hidden_TE = torch.cat([model.feed_lanes([(lane, [token_id])], cache) for token_id in ids])
    stored = sum(part.numel() * part.element_size() for parts in lane.slab.layers for part in parts)
    codes_Z = chameleon.layout.code_to_id_Z
    return F.linear(hidden_TE, model.lm_head.weight[codes_Z]).float(), stored / lane.capacity


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caches", nargs="+", default=["dynamic", "int8"], help="names (default: dynamic int8)")
    parser.add_argument("--limit", type=int, default=30, help="drawings of each kind (default: 30)")
    parser.add_argument("--dtype", default="auto", help="of the model (default: auto)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the eight pictures (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    chameleon = Chameleon.from_pretrained("emoji", dtype=arguments.dtype)
    pictures = chameleon_emoji.pictures()
    learned = [picture for picture in pictures if picture.split == "train"][: arguments.limit]
    withheld = [picture for picture in pictures if picture.split != "train"][: arguments.limit]
    print(f"{len(learned)} learned and {len(withheld)} withheld drawings, {chameleon.model.dtype}")
    print(f"{'cache':10}{'learned':>9}{'withheld':>10}{'same code':>11}{'bytes a position':>18}{'8 pictures, s':>15}")
    references: list[Tensor] = []
    for name in arguments.caches:
        losses, same, size = [], [], 0.0
        for index, picture in enumerate([*learned, *withheld]):
            codes_N = chameleon.image_tokenizer.encode([picture.image])[0]
            prompt = chameleon.prompt_ids(f"a {picture.style} drawing of a {picture.name}")
            ids = [*prompt, chameleon.layout.begin_image_id, *chameleon.layout.code_to_id_Z[codes_N].tolist()]
            logits_TZ, size = logits_of(chameleon, ids, name)
            logits_NZ = logits_TZ[-len(codes_N) - 1 : -1]
            losses.append(float(F.cross_entropy(logits_NZ, codes_N)))
            if name == arguments.caches[0]:
                references.append(logits_NZ.argmax(dim=1))
            same.append(float((logits_NZ.argmax(dim=1) == references[index]).float().mean()))
        prompts = [f"a {picture.style} drawing of a {picture.name}" for picture in learned[:8]]
        seconds = []
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            chameleon.generate_batch(prompts, modality="image", template="chat", seed=0, cache_implementation=name)
            seconds.append(time.perf_counter() - began)
        print(
            f"{name:10}{mean(losses[: len(learned)]):9.4f}{mean(losses[len(learned) :]):10.4f}{mean(same):11.1%}"
            f"{size:18.0f}{min(seconds):15.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
