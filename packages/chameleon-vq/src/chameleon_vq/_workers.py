# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Work in processes that may die: what one leaves undone another does again, and what ends each of them is given up.

A unit of work leaves a file of a deterministic name, replaced whole, so that doing it twice is as doing it once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from .errors import WorkerError

U = TypeVar("U")

Work = Callable[[U], None]
"""Does one unit of work."""

MOST_DEATHS = 10
"""How many processes may die at one unit before the job ends."""
MOST_READINGS = 3
"""How many processes may die while they read one item of a unit before the item is given up."""


class Journal:
    """Which item of a unit a process was reading when it died; a file, since the process can't say it any more."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line for each reading: the number of the item, and a full stop once it was read.
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        written = self._file.read()
        self._deaths = Counter(line for line in written.split() if line.isdigit())
        if written and not written.endswith(b"\n"):
            self._file.write(b"\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def deaths(self, item: int) -> int:
        """Return how many processes died while they read an item, an integer ≥ 0."""
        return self._deaths[b"%d" % item]

    @contextlib.contextmanager
    def reading(self, item: int) -> Iterator[None]:
        """Within the block an item is read; an exception is no death."""
        self._file.write(b"%d" % item)
        try:
            yield
        finally:
            self._file.write(b".\n")


def run_units(
    units: Iterable[U], make_work: Callable[[], Work[U]], *, workers: int, on_done: Callable[[U], None]
) -> None:
    """Do each unit in one of ``workers`` processes, and call ``on_done`` here after each.

    Each process calls ``make_work`` once; it and the units must be picklable. Where a process dies, a new one does its
    unit again. Raises what the work raises, and ``WorkerError`` where ``MOST_DEATHS`` processes died at one unit.
    """
    waiting = deque((unit, 0) for unit in units)
    context = _context(make_work)
    running: dict[Connection, _Running[U]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                _start(context, make_work, running).begin(*waiting.popleft())
            for connection in wait(list(running)):
                worker = running[connection]  # type: ignore[index]  # only Connections were waited for
                try:
                    error = worker.connection.recv()
                except (EOFError, OSError):
                    del running[worker.connection]
                    waiting.appendleft((worker.unit, _more_deaths(worker)))
                    continue
                if error is not None:
                    raise error
                on_done(worker.unit)
                if waiting:
                    worker.begin(*waiting.popleft())
                else:
                    del running[worker.connection]
                    worker.end()
    finally:
        for worker in running.values():
            worker.end()


@dataclass(slots=True)
class _Running(Generic[U]):
    """A process, and the unit that it does."""

    process: BaseProcess
    connection: Connection
    unit: U
    deaths: int = 0
    """How many processes died at this unit before."""

    def begin(self, unit: U, deaths: int) -> None:
        self.unit, self.deaths = unit, deaths
        with contextlib.suppress(OSError):  # it died; reading from it will say so
            self.connection.send(unit)

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _start(context: Any, make_work: Callable[[], Work[U]], running: dict[Connection, _Running[U]]) -> _Running[U]:
    """Start a process, and add it to those that run."""
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make_work), daemon=True)
    process.start()
    there.close()  # so that the end of the process is the end of what it sends
    unit: Any = None
    running[here] = _Running(process, here, unit)
    return running[here]


def _more_deaths(worker: _Running[Any]) -> int:
    """Return how many processes have died at the unit of one that did. Raises ``WorkerError`` where that is enough."""
    worker.end()
    if worker.deaths + 1 == MOST_DEATHS:
        raise WorkerError(
            f"{MOST_DEATHS} processes ended at the same work, the last with exit code {worker.process.exitcode}. "
            "Where the system ends them for want of memory, use fewer workers or smaller batches; then run it again."
        )
    return worker.deaths + 1


def _context(make_work: Callable[..., Any]) -> Any:
    """Return how processes are started: from a server that has imported what the work needs, where there are any."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, getattr(make_work, "func", make_work).__module__])
    return context


def _serve(connection: Connection, make_work: Callable[[], Work[Any]]) -> None:
    """Do the units that are received, in a process of its own, and end with the process that sends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the sender decides
    units: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, units), daemon=True).start()
    try:
        work = make_work()
        while True:
            work(units.get())
            connection.send(None)
    except BaseException as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        connection.send(picklable(error))


def _receive(connection: Connection, units: queue.SimpleQueue[Any]) -> None:
    """Pass on what is received; where the sender is gone, end the process, whatever it does."""
    while True:
        try:
            units.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)


def picklable(error: BaseException) -> BaseException:
    """Return an error as another process can get it: itself where it can be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
    return error
