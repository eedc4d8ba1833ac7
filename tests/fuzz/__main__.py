"""The command line: ``run``, ``show`` and ``list``; see the package."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Before torch and tokenizers are imported: one thread each, and few arenas, which the limit of memory would count.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "1",
    "RUST_BACKTRACE": "0",
}


def main() -> int:
    """Run a command; 1 where there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Broken files for every reader.")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="read broken files of every format and report")
    running.add_argument("--inputs", type=int, default=200_000, help="how many, over all formats")
    running.add_argument(
        "--first", type=int, default=0, help="the index to begin with, to see other inputs than before"
    )
    running.add_argument("--formats", help="only those whose names begin with one of these, divided by commas")
    running.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    running.add_argument("--minutes", type=float, help="begin nothing after this long")
    running.add_argument("--json", type=Path, help="write the report there, too")
    showing = commands.add_parser("show", help="read one input in this process and show what comes of it")
    showing.add_argument("format")
    showing.add_argument("index", type=int)
    showing.add_argument("--keep", type=Path, help="leave the broken folder there")
    commands.add_parser("list", help="list the formats")
    arguments = parser.parse_args()
    # As after Ctrl-C, workers and folders are cleared away, and what was found is shown.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.command == "run":
        return run(arguments)
    return show(arguments) if arguments.command == "show" else list_formats()


def run(arguments: argparse.Namespace) -> int:
    """Read broken files of every format."""
    from .formats import FORMATS, LEFT_OUT
    from .pool import run as run_pool
    from .report import Report

    wanted = tuple(arguments.formats.split(",")) if arguments.formats else ("",)
    formats = [form for form in FORMATS if form.name.startswith(wanted)]
    if not formats:
        print(f"no format begins with {arguments.formats!r}")
        return 2
    shares = sum(form.share for form in formats)
    jobs = [
        (form, arguments.first, arguments.first + max(1, round(arguments.inputs * form.share / shares)))
        for form in formats
    ]
    report, began = Report(), time.monotonic()
    shown = [began]

    def add(verdict, peak):  # type: ignore[no-untyped-def]
        if verdict.outcome.is_finding and verdict.fault not in report.faults:
            print(f"{verdict.outcome.upper()} {verdict.error} in {verdict.place}: {verdict.format} {verdict.index}")
        report.add(verdict, peak)
        if time.monotonic() - shown[0] > 10:
            shown[0] = time.monotonic()
            passed = shown[0] - began
            print(
                f"{passed:5.0f} s  {report.total:>7,} of {arguments.inputs:,}  {report.total / passed:5.0f}/s  "
                f"{report.num_findings:,} findings, {len(report.faults)} faults",
                flush=True,
            )

    stop_at = None if arguments.minutes is None else began + 60 * arguments.minutes
    try:
        run_pool(jobs, add, workers=arguments.workers, stop_at=stop_at)
    except KeyboardInterrupt:
        print("stopped")
    print(report.text())
    planned = sum(stop - start for _, start, stop in jobs)
    if report.total < planned:
        print(f"{planned - report.total:,} of {planned:,} inputs were not read")
    if LEFT_OUT:
        print(f"left out: {', '.join(LEFT_OUT)}")
    print(f"{time.monotonic() - began:.0f} s")
    if arguments.json:
        report.write_json(arguments.json)
    return int(bool(report.faults))


def show(arguments: argparse.Namespace) -> int:
    """Read one input here, without limits, and show what comes of it."""
    from .engine import write
    from .formats import FORMATS

    (form,) = [form for form in FORMATS if form.name == arguments.format]
    files, notes = form.input(arguments.index)
    print(f"{form.what}\n" + "\n".join(f"- {note}" for note in notes), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.keep or Path(folder)
        write(files, path)
        try:
            form.read(path)
        except BaseException as error:
            traceback.print_exc()
            return int(not isinstance(error, form.error))
    print("accepted")
    return 0


def list_formats() -> int:
    """List the formats."""
    from .formats import FORMATS

    for form in FORMATS:
        print(f"{form.name:24} {form.share:4} {form.what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
