"""Data sets of captioned pictures with known poison, and a killer of the processes that tokenize them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from chameleon_core.training import TokenDataset


def png(number: int, *, side: int = 12) -> bytes:
    """A picture that no other number has."""
    values_HWC = np.random.default_rng(number).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(values_HWC).save(file, "PNG")
    return file.getvalue()


POISON: tuple[Callable[[int], bytes], ...] = (
    lambda number: png(number)[:60],  # cut short
    lambda number: b"",
    lambda number: b"<html>404 Not Found</html>",
    lambda number: png(number)[:16] + b"\x7f\xff\xff\xff" * 2 + png(number)[24:],  # a header of 2³¹ × 2³¹ pixels
)


def write_folder(folder: Path, count: int, poison: Sequence[int]) -> None:
    """Write pictures with captions beside them, of which some can't be read."""
    folder.mkdir(parents=True)
    for number in range(count):
        kind = POISON[number % len(POISON)] if number in poison else png
        (folder / f"{number:05}.png").write_bytes(kind(number))
        (folder / f"{number:05}.txt").write_text(f"picture {number}", encoding="utf-8")


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], *, mode: str = "w") -> None:
    """Write a tar shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def content(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(folder: Path) -> list[str]:
    return list(TokenDataset(folder).keys())


def refused(folder: Path) -> dict[str, str]:
    """The reason of each sample in the list of what was refused, in which none is twice."""
    lines = [json.loads(line) for line in (folder / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
    reasons = {line["key"]: line["reason"] for line in lines}
    assert len(reasons) == len(lines)
    return reasons


@contextlib.contextmanager
def killing(find: Callable[[], list[int]], *, kills: int, seed: int, pause: float = 0.1) -> Iterator[list[int]]:
    """While the block runs, kill processes that ``find`` finds, at random; yields the list of those that were."""
    done: list[int] = []
    stop = threading.Event()
    draw = random.Random(seed)

    def kill() -> None:
        while len(done) < kills and not stop.wait(draw.uniform(0, 2 * pause)):
            if found := find():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chosen := draw.choice(found), signal.SIGKILL)
                    done.append(chosen)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def processes(matches: Callable[[int, bytes], bool]) -> list[int]:
    """The processes that a function of the parent's number and the command line says yes to."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if matches(parent, path.joinpath("cmdline").read_bytes()):
                found.append(int(path.name))
    return found
