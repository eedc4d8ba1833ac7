"""The workers: processes that read inputs under limits, and what becomes of one that dies of an input.

A worker is forked from a process that has imported the toolkit, so that a new one costs milliseconds. It takes a run of
indices of one format and sends a verdict for each. The time limit is of the processor's time, so that a busy machine
finds no hangs; one that only waits for eight times as long is a hang, too (a pipe that nobody writes to). The memory
limit is of the whole process, so a reader that asks for more gets a ``MemoryError``, which is a finding.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import re
import resource
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO

import torch

from .engine import Format, Outcome, Verdict, clear, judge, short

CHUNK = 100
"""How many inputs a worker reads before a fresh one takes over, so that what leaks in one input can't reach many."""
MAX_HANGS = 10
"""After so many, the rest of a format's inputs is left out: a run takes hours else, and has failed anyway."""
RELIEVED = 77
"""The exit status of a worker that ends early and did not die of an input."""
_warm: set[str] = set()
"""The formats whose valid folder was read in this process."""


@dataclass(frozen=True)
class Limits:
    """What an input may take."""

    seconds: float = 5.0
    """Of the processor's time."""
    memory: int = 10**9
    """Bytes of the whole process, about 300 million of them the imported libraries'."""


@dataclass
class _Worker:
    form: Format
    next: int
    stop: int
    process: BaseProcess
    receiver: Connection
    stderr: Path
    folder: Path
    heard: float = field(default_factory=time.monotonic)
    ticks: int = -1
    """Of the processor, when it was last looked at."""
    killed: bool = False


def run(
    formats: Iterable[tuple[Format, int, int]],
    on_verdict: Callable[[Verdict, int], None],
    *,
    workers: int = 2,
    limits: Limits = Limits(),  # it is frozen
    stop_at: float | None = None,
) -> None:
    """Judge the inputs ``start`` to ``stop - 1`` of each format, and hand over each verdict with the peak of memory.

    ``stop_at`` is a time of ``time.monotonic`` after which no further chunk is begun.
    """
    given_up: Counter[str] = Counter()
    chunks = (chunk for chunk in _chunks(formats) if given_up[chunk[0].name] < MAX_HANGS)
    running: list[_Worker] = []
    # Files in memory where there is such a place: a few of them are written for each input.
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="chameleon-fuzz-", dir=home) as root:
        try:
            while True:
                while len(running) < workers and (stop_at is None or time.monotonic() < stop_at):
                    chunk = next(chunks, None)
                    if chunk is None:
                        break
                    running.append(_start(*chunk, Path(root), limits))
                if not running:
                    return
                ready = set(wait([worker.receiver for worker in running], timeout=0.5))
                for worker in list(running):
                    if worker.receiver in ready:
                        alive = _receive(worker, on_verdict)
                    else:
                        alive = True
                        if time.monotonic() - worker.heard > 4 * limits.seconds:
                            _end_if_idle(worker)
                    if not alive:
                        running.remove(worker)
                        if worker.next < worker.stop and worker.process.exitcode != RELIEVED:
                            verdict = _of_death(worker)
                            given_up[worker.form.name] += verdict.outcome is Outcome.HANG
                            on_verdict(verdict, 0)
                            worker.next += 1
                        late = stop_at is not None and time.monotonic() > stop_at
                        if worker.next < worker.stop and given_up[worker.form.name] < MAX_HANGS and not late:
                            running.append(_start(worker.form, worker.next, worker.stop, Path(root), limits))
        finally:
            for worker in running:
                worker.process.kill()


def _chunks(formats: Iterable[tuple[Format, int, int]]) -> Iterator[tuple[Format, int, int]]:
    """The first chunk of every format, then the second, so that a run that is cut short has seen all of them."""
    left = [(form, start, stop) for form, start, stop in formats if start < stop]
    while left:
        yield from ((form, start, min(start + CHUNK, stop)) for form, start, stop in left)
        left = [(form, start + CHUNK, stop) for form, start, stop in left if start + CHUNK < stop]


def _start(form: Format, start: int, stop: int, root: Path, limits: Limits) -> _Worker:
    if form.name not in _warm:
        _warm.add(form.name)
        # Here, so that no worker's input is charged with the libraries that the first one imports.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judge(form, 0, root / "valid")
    handle, name = tempfile.mkstemp(prefix="stderr-", dir=root)
    os.close(handle)
    folder = Path(tempfile.mkdtemp(prefix="input-", dir=root))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        # "multi-threaded, use of fork() may lead to deadlocks": the threads here are idle ones of torch.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(
            target=_work, args=(form, start, stop, sender, Path(name), folder, limits), daemon=True
        )
        process.start()
    sender.close()
    return _Worker(form, start, stop, process, receiver, Path(name), folder)


def _receive(worker: _Worker, on_verdict: Callable[[Verdict, int], None]) -> bool:
    """Take what a worker sent; False where it has ended."""
    try:
        verdict, peak = worker.receiver.recv()
    except (EOFError, OSError):
        worker.process.join()
        clear(worker.folder)
        return False
    worker.heard = time.monotonic()
    worker.next = verdict.index + 1
    on_verdict(verdict, peak)
    return True


def _end_if_idle(worker: _Worker) -> None:
    """End a worker that waits for something. One that works, on a machine that is busy, has the limit of its own."""
    assert worker.process.pid is not None
    stat = Path(f"/proc/{worker.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    state, ticks = stat[0], int(stat[11]) + int(stat[12])
    if worker.killed:
        os.kill(worker.process.pid, signal.SIGKILL)
    elif state != "R" and ticks == worker.ticks:
        # The signal of the time limit, which writes down where the worker is.
        os.kill(worker.process.pid, signal.SIGPROF)
        worker.killed = True
    worker.ticks = ticks
    worker.heard = time.monotonic()


def _of_death(worker: _Worker) -> Verdict:
    """The verdict on the input that a worker died of."""
    said = worker.stderr.read_text(encoding="utf-8", errors="replace")
    worker.stderr.unlink()
    code = worker.process.exitcode or 0
    out_of_memory = re.search(r"memory allocation of \d+ bytes failed|bad_alloc|MemoryError|OutOfMemory", said)
    if code in (-signal.SIGPROF, -signal.SIGKILL):
        outcome, error = Outcome.HANG, ""
    elif out_of_memory:
        outcome, error = Outcome.MEMORY, f"died: {out_of_memory[0]}"
    else:
        outcome, error = Outcome.CRASH, signal.Signals(-code).name if code < 0 else f"exit status {code}"
    frames = re.findall(r'File "([^"]+)", line \d+ in (\S+)', said)
    own = next((frame for frame in frames if "/chameleon_" in frame[0]), frames[0] if frames else ("", ""))
    _, notes = worker.form.input(worker.next)
    return Verdict(worker.form.name, worker.next, outcome, error, said[:2_000], f"{short(own[0])}:{own[1]}", notes)


def _work(form: Format, start: int, stop: int, sender: Connection, stderr: Path, folder: Path, limits: Limits) -> None:
    """Read inputs, in a worker."""
    with stderr.open("r+b", buffering=0) as said:
        _detach(said, limits)
        for index in range(start, stop):
            os.ftruncate(said.fileno(), 0)
            said.seek(0)
            began = time.process_time()
            verdict = judge(form, index, folder, begin=lambda: signal.setitimer(signal.ITIMER_PROF, limits.seconds))
            signal.setitimer(signal.ITIMER_PROF, 0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            seconds = round(time.process_time() - began, 3)
            verdict = replace(verdict, seconds=seconds)
            if peak > limits.memory:
                # The peak stays, so that a fresh worker must judge what comes after.
                sender.send((replace(verdict, outcome=Outcome.MEMORY, error=f"{peak:,} bytes"), peak))
                os._exit(RELIEVED)
            sender.send((verdict, peak))
    # No cleaning up in a process that hostile files went through.
    os._exit(0)


def _detach(said: IO[bytes], limits: Limits) -> None:
    """Put the limits on this process, and its output aside."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream, handle in ((0, nothing), (1, nothing), (2, said.fileno())):
        os.dup2(handle, stream)
    os.chdir(tempfile.gettempdir())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(said, all_threads=False)
    # Written from within the signal, whatever holds the interpreter; then the signal's own action ends the process.
    faulthandler.register(signal.SIGPROF, said, all_threads=False, chain=True)
    with open("/proc/self/statm", encoding="ascii") as statm:
        size, resident, *_ = (int(pages) * resource.getpagesize() for pages in statm.read().split())
    resource.setrlimit(resource.RLIMIT_AS, (size - resident + limits.memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
