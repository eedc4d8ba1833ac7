"""Ids per second of the embedded model: vLLM's engine and that of chameleon-core, batched and one by one, in turns.

    python -m nox -s vllm -- --speed

The first line names the processor and the threads. Drawings of 64 codes, guided and not, greedy. The two engines
alternate in one process, and the fastest of three rounds counts. Loading isn't counted.
"""

from __future__ import annotations

import time
from typing import Any

from rows.machine import machine

from chameleon_core import Chameleon, Finished
from chameleon_vllm import VLLMChameleon

PROMPTS = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("apple", "heart", "leaf", "star")]
ROUNDS = 3
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"guidance_text": 1.0, "guidance_image": 1.0},
    "guided": {"guidance_text": 3.0, "guidance_image": 1.2},
}


def seconds(chameleon: Chameleon, batches: list[list[str]], options: dict[str, Any]) -> tuple[float, int]:
    """Return how long the batches take, one after the other, and how many ids they write."""
    start, ids = time.perf_counter(), 0
    for prompts in batches:
        events = chameleon.stream_batch(prompts, modality="image", template="chat", do_sample=False, **options)
        ids += sum(len(event.new_ids) for event in events if isinstance(event, Finished))
    return time.perf_counter() - start, ids


def main() -> None:
    """Print a table."""
    engines = {
        "chameleon-core": Chameleon.from_pretrained("emoji"),
        "vLLM": VLLMChameleon.from_pretrained(
            "emoji", dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**28
        ),
    }
    here = machine()
    print(f"{here['processor']}, {here['threads']} threads, torch {here['versions']['torch']}")
    print(f"{'':24}" + "".join(f"{name:>20}" for name in engines))
    for way, options in WAYS.items():
        for called, batches in {"8 at once": [PROMPTS], "one by one": [[each] for each in PROMPTS]}.items():
            best = dict.fromkeys(engines, float("inf"))
            count = 0
            for _ in range(ROUNDS):
                for name, chameleon in engines.items():
                    taken, count = seconds(chameleon, batches, options)
                    best[name] = min(best[name], taken)
            print(f"{way + ', ' + called:24}" + "".join(f"{count / best[name]:>15.0f} ids/s" for name in engines))


if __name__ == "__main__":
    main()
