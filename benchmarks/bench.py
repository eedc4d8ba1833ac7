"""The whole benchmark: each row beside ``transformers`` and beside what the machine can do, in one run.

The sides of a row compute the same, which is compared first, and take turns, so that drift affects all alike. Medians
of the repeats are printed with their ratios, as they are measured; README.md beside this file says how to read them.

    python benchmarks/bench.py                       # all rows: a quarter of an hour on two idle cores
    python benchmarks/bench.py --quick               # smaller work: less than three minutes
    python benchmarks/bench.py --rows 'decode-*' --json decoding.json
    python benchmarks/bench.py --list

The exit status is 1 where a row failed, because the sides differ or one can't run.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import transformers
from rows import ROWS
from rows.machine import load_average, machine
from rows.measuring import measure
from rows.rates import measured_rates
from rows.report import HEAD, as_json, line, machine_lines, rate_lines
from rows.row import Row, Scale, release


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="scale", action="store_const", const=Scale.QUICK, help="smaller work")
    size.add_argument("--tiny", dest="scale", action="store_const", const=Scale.TINY, help="only show that it runs")
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", help="names, or patterns such as 'decode-*' (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="list the rows and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of each repeat, too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.set_defaults(scale=Scale.FULL)
    arguments = parser.parse_args()
    try:
        rows = chosen(arguments.rows or ["*"])
    except KeyError as error:
        parser.error(error.args[0])
    if arguments.list:
        print("\n".join(f"{row.name:28}{row.summary} ({row.unit})" for row in rows))
        return 0
    torch.set_num_threads(arguments.threads)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that a row starts would compile all it imports
    transformers.logging.set_verbosity_error()
    return run(rows, arguments.scale, arguments.json)


def chosen(names: Sequence[str]) -> list[Row]:
    """Return the rows with these names or patterns, in the table's order. Raises ``KeyError`` with what to do."""
    for name in names:
        if not any(fnmatchcase(row.name, name) for row in ROWS):
            near = difflib.get_close_matches(name, [row.name for row in ROWS], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise KeyError(f"there is no row {name!r}; --list lists them.{hint}")
    return [row for row in ROWS if any(fnmatchcase(row.name, name) for name in names)]


def run(rows: Sequence[Row], scale: Scale, json_file: Path | None) -> int:
    """Measure rows, print each as soon as it is measured, and return the exit status."""
    here, load = machine(), load_average()
    print(machine_lines(here, load))
    rates = measured_rates(scale)
    print(f"{rate_lines(rates)}\n\n{HEAD}", flush=True)
    results = []
    for row in rows:
        results.append(measure(row, scale))
        release()
        print(line(results[-1], scale), flush=True)
    load_after = load_average()
    failed = [result.row.name for result in results if result.error is not None]
    disturbed = [result.row.name for result in results if result.is_disturbed]
    print(f"\nload at the end: {load_after}; {len(results) - len(failed)} rows measured")
    for names, what in ((disturbed, "disturbed by other processes, measure again"), (failed, "failed")):
        if names:
            print(f"{what}: {' '.join(names)}")
    if json_file is not None:
        report = {
            "scale": scale,
            "machine": here,
            "load": {"begin": load, "end": load_after},
            "limits": rates,
            "rows": [as_json(result, scale) for result in results],
        }
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
