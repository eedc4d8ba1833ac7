"""Requests that arrive over time: the engine beside one request after the other, and what a long prompt costs others.

32 requests of mixed kinds (text, pictures, guided pictures) and lengths arrive at a pace that keeps the engine busy.
Throughput is new ids per second until the last request has ended, and per second of processor time, which other load on
the machine changes less; the time to the first id is from a request's arrival.

    python benchmarks/engine.py                  # the embedded model of chameleon-emoji
    python benchmarks/engine.py --model small    # 4 layers, 256 wide, the published vocabulary, random weights
    python benchmarks/engine.py --throughput     # without the times to the first id
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from random import Random

import torch
from generate import SHAPE

from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Engine,
    GenerationOptions,
    Request,
)

NUM_REQUESTS = 32
LONG_PROMPT = 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["emoji", "small"], default="emoji", help="which model (default: emoji)")
    parser.add_argument("--rows", type=int, default=32, help="rows that run at the same time (default: 32)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--throughput", action="store_true", help="measure the throughput alone")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.model == "emoji":
        model = Chameleon.from_pretrained("emoji").model
    else:
        model = ChameleonForConditionalGeneration(ChameleonConfig(**SHAPE)).eval()
    requests = mixed_requests(model)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {NUM_REQUESTS} requests, {arguments.rows} rows")

    alone, together = [], []
    for _ in range(arguments.repeats):
        alone.append(one_after_the_other(model, requests))
        together.append(all_at_once(model, requests, arguments.rows))
    print(f"{'':20}{'ids/s':>10}{'ids per second of processor time':>36}")
    medians = [[statistics.median(column) for column in zip(*runs, strict=True)] for runs in (alone, together)]
    for name, (wall, processor) in zip(("one after the other", "engine"), medians, strict=True):
        print(f"{name:20}{wall:10.1f}{processor:36.1f}")
    wall, processor = (together / alone for alone, together in zip(*medians, strict=True))
    print(f"{'ratio':20}{wall:10.2f}{processor:36.2f}")

    if arguments.throughput:
        return
    pace = NUM_REQUESTS / 2
    for chunk in (None, 32):
        for long_prompt in (False, True):
            times = [time_to_first_id(model, requests, arguments.rows, pace, chunk, long_prompt) for _ in range(3)]
            print(
                f"time to the first id, p95, prompt_chunk={chunk}, "
                f"{'a prompt of 1,000 ids joins' if long_prompt else 'no long prompt'}: "
                f"{1000 * statistics.median(times):.0f} ms"
            )


def mixed_requests(model: ChameleonForConditionalGeneration) -> list[Request]:
    """Return the requests: a third each of text, pictures, and guided pictures."""
    random = Random(0)
    words = model.layout.text_allowed_V.nonzero()[:, 0].tolist()
    picture = model.layout.tokens_per_image
    requests = []
    for number in range(NUM_REQUESTS):
        prompt = [model.layout.bos_id, *random.choices(words, k=random.randint(2, 40))]
        options = GenerationOptions(do_sample=True, temperature=0.7, top_p=0.9, seed=number)
        if number % 3 == 0 or picture > 256:
            options = options.replace(max_new_tokens=random.randint(20, 80))
        else:
            options = options.replace(modality="image", guidance_text=1.5 if number % 3 == 2 else 1.0)
        requests.append(Request(prompt=prompt, options=options))
    return requests


def one_after_the_other(model: ChameleonForConditionalGeneration, requests: Sequence[Request]) -> tuple[float, float]:
    """Return the ids per second of ``generate``, a request at a time, and those per second of processor time."""
    start, processor, count = time.perf_counter(), time.process_time(), 0
    for request in requests:
        out = model.generate(torch.tensor([request.prompt]), options=request.options)
        count += out.shape[1] - len(request.prompt)
    return count / (time.perf_counter() - start), count / (time.process_time() - processor)


def all_at_once(
    model: ChameleonForConditionalGeneration, requests: Sequence[Request], rows: int
) -> tuple[float, float]:
    """Return the same of the engine; a request arrives with every other step."""
    engine = Engine(model, max_rows=rows)
    start, processor, count, pending = time.perf_counter(), time.process_time(), 0, list(requests)
    steps = 0
    while pending or not engine.is_idle:
        if pending and steps % 2 == 0:
            engine.submit(pending.pop(0))
        count += sum(len(event.ids) for event in engine.step())
        steps += 1
    return count / (time.perf_counter() - start), count / (time.process_time() - processor)


def time_to_first_id(
    model: ChameleonForConditionalGeneration,
    requests: Sequence[Request],
    rows: int,
    pace: float,
    chunk: int | None,
    long_prompt: bool,
) -> float:
    """Return the 95th percentile of the seconds to the first id, of requests that arrive ``pace`` a second."""
    engine = Engine(model, max_rows=rows, prompt_chunk=chunk)
    words = model.layout.text_allowed_V.nonzero()[:, 0].tolist()
    start = time.perf_counter()
    arrivals = [(number / pace, request) for number, request in enumerate(requests)]
    if long_prompt:
        length = min(LONG_PROMPT, model.config.context_length - 8)
        joining = Request(prompt=Random(1).choices(words, k=length), options=GenerationOptions(max_new_tokens=4))
        arrivals.insert(8, (arrivals[8][0], joining))
    arrived: dict[int, float] = {}
    first: dict[int, float] = {}
    skipped = -1
    while arrivals or not engine.is_idle:
        now = time.perf_counter() - start
        while arrivals and arrivals[0][0] <= now:
            due, request = arrivals.pop(0)
            number = engine.submit(request).number
            arrived[number] = due
            if len(request.prompt) > 100:
                skipped = number
        if engine.is_idle:
            time.sleep(max(arrivals[0][0] - now, 0))
        for event in engine.step():
            if event.ids:
                first.setdefault(event.handle.number, time.perf_counter() - start)
    waited = [first[number] - arrived[number] for number in first if number != skipped]
    return statistics.quantiles(waited, n=20)[-1]


if __name__ == "__main__":
    main()
