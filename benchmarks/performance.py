"""Measures what a token costs against context, batch and size of the model, beside ``transformers``, for the docs.

Writes ``performance.json`` beside this file, and with it the tables and plots of ``docs/performance.md``. Run it on a
machine that does nothing else; what was disturbed is marked on the page. It takes five minutes on two cores.

    python benchmarks/performance.py
    python benchmarks/performance.py --quick     # a few points, to see that it works
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import Any

import performance_page
import torch
import transformers
from rows.machine import load_average, machine
from rows.measuring import measure
from rows.row import Row, Scale, release
from rows.small_model import greedy

CONTEXTS = (128, 512, 1024, 2048, 4000)
BATCHES = (1, 2, 4, 8, 16)
SIZES = ((256, 4), (512, 8), (1024, 12), (2048, 8))
"""Widths and layers."""
QUICK = 3
"""The points of each sweep that ``--quick`` takes, the first ones."""
REPEATS, SECONDS = 5, 6.0


def main() -> int:
    """Measure, write, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each run (default: 24)")
    parser.add_argument("--quick", action="store_true", help="measure only a few points of each")
    arguments = parser.parse_args()
    count = QUICK if arguments.quick else None
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    here, before = machine(), load_average()
    steps = partial(greedy, new=arguments.tokens)
    small = "A model of 4 layers, 256 wide, with 65,536 ids"
    try:
        sweeps = [
            sweep(
                f"{small}, one row, against the length of the context",
                "context",
                "ms a token",
                {context: partial(steps, prompt=context) for context in CONTEXTS[:count]},
            ),
            sweep(
                f"{small}, after 128 ids, against the rows of the batch; a step gives each row a token",
                "batch",
                "ms a step",
                {batch: partial(steps, prompt=128, batch=batch) for batch in BATCHES[:count]},
            ),
            sweep(
                "Models of several sizes, one row after 16 ids, against millions of parameters",
                "million parameters",
                "ms a token",
                {
                    millions(width, layers): partial(steps, width=width, layers=layers, new=arguments.tokens // 2)
                    for width, layers in SIZES[:count]
                },
            ),
        ]
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    load = {"begin": before or 0.0, "end": load_average() or 0.0}
    report = {"machine": here, "load": load, "sweeps": sweeps}
    performance_page.MEASURED.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    performance_page.write()
    return 0


def millions(width: int, layers: int, vocabulary_size: int = 65536) -> int:
    """Return the parameters of a model in millions."""
    inner = width * 43 // 16
    return round((layers * (4 * width**2 + 3 * width * inner) + 2 * vocabulary_size * width) / 1e6)


def sweep(what: str, axis: str, unit: str, points: dict[int, Any]) -> dict[str, Any]:
    """Measure a row for each value of an axis. Raises ``RuntimeError`` where one can't be measured."""
    found = []
    for value, prepare in points.items():
        measured = measure(Row(f"{axis} {value}", what, prepare, unit), Scale.FULL, repeats=REPEATS, seconds=SECONDS)
        release()
        if measured.error is not None or measured.theirs is None or measured.limit is None:
            raise RuntimeError(f"{axis} {value}: {measured.error}")
        found.append(
            {
                "value": value,
                "ours": measured.ours.median,
                "peer": measured.theirs.median,
                "limit": measured.limit.median,
                "spread": max(measured.ours.spread, measured.theirs.spread),
                "disturbed": measured.is_disturbed,
                "others": measured.others,
            }
        )
        print(f"{axis} {value}: ours {measured.ours.median:.2f}, transformers {measured.theirs.median:.2f} {unit}")
    return {"what": what, "axis": axis, "unit": unit, "points": found}


if __name__ == "__main__":
    sys.exit(main())
