"""``python -m tests.parity.probes``: run the probes and print what differs for no stated reason."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from .page import write_page
from .probes import Result, read_probes, run_probes


def main() -> int:
    """Print the differences and the counts; 1 where a difference has no stated reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.probes", description="Compare with transformers.")
    parser.add_argument("--area", action="append", help="only this area; may be repeated")
    parser.add_argument("--containing", default="", metavar="TEXT", help="only probes that contain this")
    parser.add_argument("--all", action="store_true", help="print what is the same, too")
    parser.add_argument("--write", action="store_true", help="write the table of docs/compatibility.md")
    arguments = parser.parse_args()
    probes = [
        probe
        for probe in read_probes()
        if probe.area in (arguments.area or [probe.area]) and arguments.containing in probe.line
    ]
    if arguments.write and len(probes) < len(read_probes()):
        parser.error("--write needs all probes; leave out --area and --containing.")
    results: list[Result] = []
    for result in run_probes(probes):
        results.append(result)
        if arguments.all or result.problem is not None:
            print(f"[{result.probe.area}] {result.probe.line}\n  {result.problem or result.status}")
            print(f"  theirs  {str(result.theirs)[:300]}\n  ours    {str(result.ours)[:300]}", flush=True)
    for (area, status), count in sorted(Counter((each.probe.area, each.status) for each in results).items()):
        print(f"{area}: {count} {status}")
    for status, count in sorted(Counter(each.status for each in results).items()):
        print(f"together: {count} {status}")
    problems = sum(result.problem is not None for result in results)
    print(f"without a stated reason: {problems} of {len(results)}")
    if arguments.write:
        write_page(results)
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
