"""Pictures encoded in several processes: units of work whose files survive whatever dies, joined to one file of codes.

The units are slices of the list of pictures. Their files lie in a folder beside the output, so that a job that was
stopped continues, and are joined in the order of the list, whatever the number of processes.

Shapes: B pictures, C channels, H W pixels, N codes per picture.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ._files import read_json, write_json
from ._workers import MOST_READINGS, Journal, run_units
from .codes_file import read_codes, write_codes
from .errors import CodesError, ImageError, MissingFileError
from .file_access import writing
from .pictures import batch_of, batches
from .tokenizer import ImageTokenizer

UNIT_SIZE = 256
"""Pictures of a unit of work."""
JOB_FILE = "job.json"


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """What the processes encode with."""

    tokenizer: str
    """The folder or the name of the image tokenizer."""
    device: str = "cpu"
    """The device to compute on, by default "cpu"."""
    dtype: str = "float32"
    """The dtype to compute in, by default "float32"."""
    batch_size: int | None = None
    """Pictures that are encoded together; None, the default, as ``ImageTokenizer.encode`` does."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Some of the pictures, with their names in the file of codes."""

    number: int
    named: tuple[tuple[Path, str], ...]


def encode_in_processes(
    named: Mapping[Path, str],
    tokenizer: ImageTokenizer,
    output: str | os.PathLike[str],
    options: EncodingOptions,
    *,
    workers: int,
    on_done: Callable[[int], None],
) -> list[str]:
    """Encode picture files to one file of codes, and return why those are left out that can't be read.

    ``named`` are the files with their names in ``output``, and ``tokenizer`` is the one that ``options`` name. Each of
    ``workers`` processes computes with one thread; ``on_done`` is called with the number of pictures of a unit that is
    done. Without any picture that can be read, nothing is written. Raises ``WorkerError`` where the processes keep
    dying, ``FileAccessError``, ``CodesError``.
    """
    # Absolute, since other processes may be in other folders.
    pairs = [(Path(os.path.abspath(path)), name) for path, name in named.items()]
    if os.path.isdir(options.tokenizer):
        options = replace(options, tokenizer=os.path.abspath(options.tokenizer))
    units = [
        Unit(number, tuple(pairs[start : start + UNIT_SIZE]))
        for number, start in enumerate(range(0, len(pairs), UNIT_SIZE))
    ]
    folder = Path(os.path.abspath(output)).with_name(f".{Path(output).name}.units")
    _begin(folder, {"pictures": _digest(pairs), "codes": tokenizer.fingerprint, **asdict(options)})
    left = [unit for unit in units if not os.path.exists(_record(folder, unit))]
    for unit in units:
        if unit not in left:
            on_done(len(unit.named))
    run_units(
        left,
        partial(_UnitWriter, folder, options),
        workers=min(workers, max(1, len(left))),
        on_done=lambda unit: on_done(len(unit.named)),
    )
    failures: list[str] = []
    names: list[str] = []
    codes: list[Tensor] = []
    for unit in units:
        record = read_json(_record(folder, unit))
        failures += record["left_out"]
        if record["pictures"]:
            part = read_codes(_part(folder, unit))
            names += part.names
            codes.append(part.codes_BN)
    if codes:
        write_codes(output, torch.cat(codes), names=names, tokenizer=tokenizer)
    shutil.rmtree(folder)
    return failures


class _UnitWriter:
    """Writes the codes of a unit's pictures and then its record: how many there are, and why others are left out."""

    def __init__(self, folder: Path, options: EncodingOptions) -> None:
        # The processes share the processors, and codes don't depend on how many threads there are.
        torch.set_num_threads(1)
        self._folder = folder
        self._batch_size = options.batch_size
        self._tokenizer = ImageTokenizer.from_pretrained(options.tokenizer, device=options.device, dtype=options.dtype)

    def __call__(self, unit: Unit) -> None:
        left_out: list[str] = []
        names: list[str] = []
        codes: list[Tensor] = []
        journal_path = _record(self._folder, unit).with_suffix(".reading")
        with Journal(journal_path) as journal:
            for part in batches(self._read(unit, journal, left_out), self._together()):
                names += [name for name, _ in part]
                codes += self._tokenizer.encode_pixels(torch.cat([pixels_1CHW for _, pixels_1CHW in part]))
        if codes:
            write_codes(_part(self._folder, unit), torch.stack(codes), names=names, tokenizer=self._tokenizer)
        write_json(_record(self._folder, unit), {"pictures": len(codes), "left_out": left_out})
        journal_path.unlink(missing_ok=True)

    def _together(self) -> int:
        height, width = self._tokenizer.latent_size
        return batch_of(self._batch_size, height * width * self._tokenizer.model.config.stride**2)

    def _read(self, unit: Unit, journal: Journal, left_out: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the names and pixels of the pictures that can be read, all of the default size."""
        for number, (path, name) in enumerate(unit.named):
            if journal.deaths(number) >= MOST_READINGS:
                left_out.append(f"{path}: reading it ended the process, {journal.deaths(number)} times.")
                continue
            try:
                with journal.reading(number):
                    pixels_1CHW = self._tokenizer.pixels(path)
                self._check_size(path, pixels_1CHW)
            except (ImageError, MissingFileError, CodesError) as error:
                left_out.append(str(error))
            else:
                yield name, pixels_1CHW

    def _check_size(self, path: Path, pixels_1CHW: Tensor) -> None:
        stride = self._tokenizer.model.config.stride
        height, width = pixels_1CHW.shape[2:]
        expected = [side * stride for side in self._tokenizer.latent_size]
        if [height, width] != expected:
            raise CodesError(
                f"{path} has {height}×{width} pixels, expected {expected[0]}×{expected[1]}: pictures of different "
                "sizes don't fit into one file of codes. Turn do_center_crop on."
            )


def _begin(folder: Path, job: dict[str, object]) -> None:
    """Make the folder of a job; what another job left in it, of other pictures or options, is removed."""
    path = folder / JOB_FILE
    with writing(path):
        if not os.path.exists(path) or read_json(path) != job:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(path, job)


def _digest(pairs: list[tuple[Path, str]]) -> str:
    """Return a hash, in hex, of the names, sizes and times of picture files."""
    digest = hashlib.sha256()
    for path, name in pairs:
        try:
            status = path.stat()
            facts = [os.fspath(path), name, status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):  # reading it will say why
            facts = [os.fspath(path), name]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _record(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.number:05d}.json"


def _part(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.number:05d}.safetensors"
