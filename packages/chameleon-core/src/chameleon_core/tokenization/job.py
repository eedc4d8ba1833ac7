"""A job that tokenizes a data set: its manifest, its units, and the end, which makes the shards a dataset.

``tokenization.json`` is written first and says what the job is; each unit leaves its shard and then a record;
``dataset.json`` is written last, so that a folder is read only when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from .._boundary import translates_errors
from .._commits import remove_leftovers
from .._files import read_json, replacing, write_json, writing
from .._workers import run_units
from ..errors import ConfigError, FileFormatError
from ..training.data import JOB_FILE, META_FILE, TokenDataset, write_meta
from ..training.errors import DatasetError
from .documents import RECORDS, Tokenizers, UnitWriter, record_path
from .options import TokenizationOptions
from .units import Units, find_units

REFUSED_FILE = "refused.jsonl"
"""The samples that aren't in the data set: a line of JSON for each, with ``key``, ``source`` and ``reason``."""
FORMAT = 1

Source = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TokenizedDataset:
    """What a job has made."""

    folder: Path
    """The folder of the dataset."""
    documents: int
    """The number of documents."""
    ids: int
    """The number of their ids."""
    refused: int
    """The number of samples that were refused; ``refused.jsonl`` says why."""
    skipped: tuple[tuple[str, str], ...]
    """Files in folders that were no sources, and why."""

    def open(self) -> TokenDataset:
        """Return the dataset."""
        return TokenDataset(self.folder)


class _Manifest(msgspec.Struct, kw_only=True):
    format: int
    sources: str
    """A hash of the names and sizes of what is read."""
    units: int
    tokenizer_hash: str
    vocab_size: int
    options: dict[str, Any]
    finished: bool = False
    documents: int = 0
    ids: int = 0
    refused: int = 0


@translates_errors
def tokenize_dataset(
    model: Source,
    sources: Sequence[Source],
    output: Source,
    *,
    workers: int | None = None,
    ray: str | None = None,
    image_tokenizer: Source | None = None,
    processor: Source | None = None,
    options: TokenizationOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    **changes: Any,
) -> TokenizedDataset:
    """Write the documents of pictures and captions as a folder of token shards, which ``TokenDataset`` reads.

    ``sources`` are folders of pictures, files of captions, WebDataset tar shards, parquet files and folders that
    ``save_to_disk`` of ``datasets`` wrote. They are cut into units, which ``workers`` processes encode, by default one
    for each processor, each with one thread; with 0 this process does, without them. A unit whose process is
    killed is done again by another; a job that is stopped continues when it is started again with the same arguments.
    Every picture is in the dataset once, in an order that doesn't depend on ``workers``; those that can't be read are
    in ``refused.jsonl`` with the reason.

    ``ray`` is the address of a Ray cluster, "auto" or "local": its machines share the work, and must see the sources
    and the output under the same paths. ``workers`` are then its processes, by default as many as it has processors.
    ``progress`` is called with the number of units that are done and of all. ``changes`` are fields of ``options``.

    Raises ``MissingFileError``, ``FileFormatError`` and ``ConfigError`` for sources that aren't usable,
    ``DatasetError`` where the folder has other data, ``WorkerError`` where the processes keep dying, and
    ``MissingPackageError``. Start it below ``if __name__ == "__main__":`` in a script, which the processes import.
    """
    options = (options or TokenizationOptions()).replace(**changes)
    if workers is not None and workers < (ray is not None):
        raise ConfigError(f"workers must be an integer ≥ {int(ray is not None)}; got {workers}.")
    if isinstance(sources, str | os.PathLike):
        raise ConfigError(f"sources must be a list; got {sources!r}. Pass [{str(sources)!r}].")
    # Absolute, since other processes may be in other folders.
    folder = Path(os.path.abspath(output))
    found = find_units(list(map(os.path.abspath, sources)), options)
    tokenizers = Tokenizers(
        _absolute(model),
        None if image_tokenizer is None else _absolute(image_tokenizer),
        None if processor is None else _absolute(processor),
    )
    manifest = _begin(folder, found, tokenizers, options)
    if not manifest.finished:
        make_writer = partial(UnitWriter, tokenizers, folder, options)
        gpus = 0.0 if options.device == "cpu" else 1.0
        _do(folder, found, make_writer, workers=workers, ray=ray, gpus=gpus, progress=progress)
        manifest = _finish(folder, manifest)
    shutil.rmtree(folder / RECORDS, ignore_errors=True)
    remove_leftovers(folder)
    return TokenizedDataset(folder, manifest.documents, manifest.ids, manifest.refused, found.skipped)


def _absolute(name_or_folder: Source) -> str:
    """Return the absolute path of a folder, or the name or the Hub id as it is."""
    name = os.fspath(name_or_folder)
    return os.path.abspath(name) if os.path.isdir(name) else name


def _begin(folder: Path, found: Units, tokenizers: Tokenizers, options: TokenizationOptions) -> _Manifest:
    """Write the manifest of a new job, or check that the job in the folder is this one, and return its manifest."""
    encoder = tokenizers.load(options)
    manifest = _Manifest(
        format=FORMAT,
        sources=found.digest(),
        units=len(found.units),
        tokenizer_hash=encoder.tokenizer_hash(),
        vocab_size=encoder.config.vocab_size,
        options={
            name: value for name, value in options.to_dict().items() if name not in TokenizationOptions.changeable
        },
    )
    path = folder / JOB_FILE
    if os.path.exists(path):
        try:
            before = msgspec.convert(read_json(path), _Manifest)
        except msgspec.ValidationError as error:
            raise FileFormatError(f"{path} doesn't describe a job: {error}. Choose another folder.") from error
        before.options.setdefault("template", "completion")  # which jobs of earlier versions don't have
        for name in ("format", "options", "tokenizer_hash", "vocab_size", "units", "sources"):
            if getattr(before, name) != getattr(manifest, name):
                raise DatasetError(_difference(folder, name, getattr(before, name), getattr(manifest, name)))
        return before
    if os.path.exists(folder / META_FILE) or list(folder.glob("tokens-*")):
        raise DatasetError(f"{folder} has a dataset already, of another origin. Choose another folder.")
    with writing(folder):
        write_json(path, msgspec.to_builtins(manifest))
    return manifest


def _difference(folder: Path, name: str, before: Any, now: Any) -> str:
    if name == "options":
        changed = [f"{each} {before.get(each)!r}, now {now[each]!r}" for each in now if before.get(each) != now[each]]
        differs = f"other options ({', '.join(changed)})"
    elif name == "sources":
        differs = "other sources: files were added, removed or changed"
    elif name == "units":
        differs = f"other sources ({before} units of work, now {now})"
    else:
        differs = {"format": "another format", "tokenizer_hash": "other tokenizers"}.get(name, "another vocabulary")
    return f"{folder} has a job with {differs}. Choose another folder, or remove this one."


def _do(
    folder: Path,
    found: Units,
    make_writer: Callable[[], UnitWriter],
    *,
    workers: int | None,
    ray: str | None,
    gpus: float,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Do the units that have no record yet."""
    left = [
        (number, unit) for number, unit in enumerate(found.units) if not os.path.exists(record_path(folder, number))
    ]
    done = len(found.units) - len(left)

    def advance(_: object = None) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(found.units))

    if progress is not None:
        progress(done, len(found.units))
    if not left:
        return
    if workers == 0:
        threads = torch.get_num_threads()
        try:
            work = make_writer()
            for numbered in left:
                work(numbered)
                advance()
        finally:
            torch.set_num_threads(threads)
    elif ray is None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        run_units(left, make_writer, workers=workers or available, on_done=advance)
    else:
        from .on_ray import run_on_ray

        run_on_ray(left, make_writer, address=ray, workers=workers, gpus=gpus, on_done=advance)


def _finish(folder: Path, manifest: _Manifest) -> _Manifest:
    """Make the shards a dataset. It may be killed anywhere and done again."""
    records = [read_json(record_path(folder, number)) for number in range(manifest.units)]
    refused = [line for record in records for line in record["refused"]]
    manifest.documents = sum(record["documents"] for record in records)
    manifest.ids = sum(record["ids"] for record in records)
    manifest.refused = len(refused)
    with writing(folder):
        with replacing(folder / REFUSED_FILE) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in refused), encoding="utf-8")
        write_meta(folder, tokenizer_hash=manifest.tokenizer_hash, vocab_size=manifest.vocab_size)
        manifest.finished = True
        write_json(folder / JOB_FILE, msgspec.to_builtins(manifest))
    return manifest
