"""Passes of the model and time per picture on a CPU, decoded plainly and by guessing, with the embedded model.

All strategies draw the same requests with the same seeds and must write the same ids. Their runs alternate, so that
other load on the machine slows all of them; medians over the requests are printed, with each one's share of plain's.

    python benchmarks/decoding.py                        # at the model's defaults, then at temperature 1 unguided
    python benchmarks/decoding.py --windows 8 12 16 24   # several windows of jacobi
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from chameleon_core import Chameleon, GenerationOptions
from chameleon_core.generation import Engine, Request
from chameleon_core.pipeline.prompts import encode_prompts

PROMPTS = (
    "a red heart",
    "a cat",
    "a twemoji drawing of a blue circle",
    "a rainbow",
    "a rabbit",
    "a tulip",
    "a penguin above a banana",
    "a rocket on a blue background",
)


@dataclass(slots=True)
class Measured:
    """What each picture took."""

    passes: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    """Seconds."""
    processor: list[float] = field(default_factory=list)
    """Seconds of processor time, which other load on the machine changes less."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=[16], help="windows of jacobi (default: 16)")
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each prompt (default: 4)")
    parser.add_argument("--batch", type=int, default=1, help="pictures drawn at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chameleon = Chameleon.from_pretrained("emoji")
    defaults = chameleon.model.generation_options.replace(modality="image")
    settings = {
        "the model's defaults": defaults,
        "temperature 1, no guidance": defaults.replace(temperature=1.0, top_p=1.0, guidance_text=1.0),
    }
    strategies: Mapping[str, str | dict[str, object]] = {
        "plain": "plain",
        **{f"jacobi, window {window}": {"name": "jacobi", "window": window} for window in arguments.windows},
    }
    for title, options in settings.items():
        measured = measure(chameleon, options, strategies, arguments.seeds, arguments.batch)
        print(f"{title}; {len(measured['plain'].passes)} runs of {arguments.batch}, {arguments.threads} threads")
        for name, each in measured.items():
            print(f"  {name:20}{_shares(each, measured['plain'])}")


def measure(
    chameleon: Chameleon,
    options: GenerationOptions,
    strategies: Mapping[str, str | dict[str, object]],
    seeds: int,
    batch: int,
) -> dict[str, Measured]:
    """Return what each strategy took for each prompt and seed."""
    measured = {name: Measured() for name in strategies}
    prompts = encode_prompts(
        PROMPTS,
        template="chat",
        options=options,
        processor=chameleon.processor,
        layout=chameleon.layout,
        context_length=chameleon.model.config.context_length,
        image_tokenizer=lambda: chameleon.image_tokenizer,
    )
    for seed in range(-1, seeds):  # the first round warms up
        for prompt in prompts:
            drawn = []
            for name, decoding in strategies.items():
                each = Measured() if seed < 0 else measured[name]
                drawn.append(draw(chameleon, prompt, options.replace(seed=seed + 1, decoding=decoding), batch, each))
            if any(ids != drawn[0] for ids in drawn):
                raise SystemExit(f"the strategies wrote different ids for {prompt} at seed {seed}.")
    return measured


def draw(
    chameleon: Chameleon, prompt: Sequence[int], options: GenerationOptions, batch: int, measured: Measured
) -> list[list[int]]:
    """Draw one request with several rows, add what it took, and return the ids of each."""
    engine = Engine(chameleon.model)
    handles = [engine.submit(Request(prompt=prompt, options=options, index=index)) for index in range(batch)]
    wall, processor, passes = time.perf_counter(), time.process_time(), 0
    while not engine.is_idle:
        engine.step()
        passes += 1
    measured.passes.append(passes)
    measured.wall.append(time.perf_counter() - wall)
    measured.processor.append(time.process_time() - processor)
    return [handle.new_ids for handle in handles]


def _shares(each: Measured, plain: Measured) -> str:
    """Return the passes, the wall time and the processor time of a run, and how many times those are plain's."""
    columns = []
    for values, of_plain, unit, scale in (
        (each.passes, plain.passes, "passes", 1),
        (each.wall, plain.wall, "ms", 1000),
        (each.processor, plain.processor, "ms of processor time", 1000),
    ):
        mean = statistics.mean if unit == "passes" else statistics.median
        ratio = mean(of_plain) / mean(values)
        columns.append(f"{scale * mean(values):8.1f} {unit} ({ratio:4.2f}×)")
    return "".join(columns)


if __name__ == "__main__":
    main()
