"""The units of a job on a Ray cluster, by Ray Data: its actors are the processes, which it restarts where they die."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from .._workers import Work
from ..errors import ChameleonCoreError, WorkerError
from ..training.errors import requires_extra
from .units import Unit

Numbered = tuple[int, Unit]


def run_on_ray(
    units: Sequence[Numbered],
    make_work: Callable[[], Work[Numbered]],
    *,
    address: str,
    workers: int | None,
    gpus: float,
    on_done: Callable[[Numbered], None],
) -> None:
    """Do each unit in an actor of Ray Data, and call ``on_done`` here after each.

    ``workers`` is the number of actors, None for as many as the cluster has processors or ``gpus`` for; each takes a
    processor and ``gpus`` GPUs. A cluster that this process is connected to is used; else ``address`` is, until the
    end. Raises the toolkit's and the system's errors as the work did, ``WorkerError`` for others or where Ray gives up,
    and ``MissingPackageError``.
    """
    with _connected(address) as ray:
        if workers is None:
            resources = ray.cluster_resources()
            of_gpus = int(resources.get("GPU", 0) / gpus) if gpus else len(units)
            workers = max(1, min(int(resources.get("CPU", 1)), of_gpus, len(units)))
        rows = [{"place": place, "unit": msgspec.json.encode(unit)} for place, (_, unit) in enumerate(units)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(make_work, [number for number, _ in units]),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=gpus,
        )
        try:
            for row in done.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
                on_done(units[row["place"]])
        except ray.exceptions.RayError as error:
            raise WorkerError(f"Ray gave the job up: {error}") from error


class _Actor:
    """What Ray Data makes once in each process, and calls with one unit at a time."""

    def __init__(self, make_work: Callable[[], Work[Numbered]], numbers: list[int]) -> None:
        self._make_work = make_work
        self._numbers = numbers

    @cached_property
    def _work(self) -> Work[Numbered]:
        # Not when the actor is made: of errors there, Ray passes on the text alone.
        return self._make_work()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        errors = []
        for place, unit in zip(batch["place"], batch["unit"], strict=True):
            try:
                self._work((self._numbers[place], msgspec.json.decode(unit, type=Unit)))
                errors.append(b"")
            except (ChameleonCoreError, OSError) as error:
                # As a result: of what is raised here, Ray passes on the text and not always the exception.
                errors.append(pickle.dumps(error))
        return {"place": batch["place"], "error": errors}


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Yield the package ray, connected to a cluster. Raises ``MissingPackageError`` and ``WorkerError``."""
    with requires_extra("the argument ray", extra="ray"):
        import ray.data
        import ray.exceptions

        import ray
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, ValueError) as error:
        raise WorkerError(f"there is no Ray cluster at {address!r}: {error}. Start one, or pass 'local'.") from error
    try:
        yield ray
    finally:
        ray.shutdown()
