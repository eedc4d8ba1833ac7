"""What chameleon-core reads of pictures with captions: files of captions, tar shards and parquet files."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path
from random import Random

from chameleon_core import ChameleonCoreError
from chameleon_core.tokenization import TokenizationOptions
from chameleon_core.tokenization.samples import read_samples
from chameleon_core.tokenization.units import find_units

from ..engine import Files, Format, Unsound
from ..mutations import mutate_bytes, mutate_lines
from . import seeds

CAPTIONS = ("a red apple", "two leaves", "é")
LINES, TABLE, TAR, PARQUET = "metadata.jsonl", "metadata.csv", "shard.tar", "shard.parquet"
OPTIONS = TokenizationOptions()


def _read(folder: Path) -> None:
    """Read all samples; what is damaged must be said of a sample, or be an error of the whole."""
    keys: set[str] = set()
    for unit in find_units([folder], OPTIONS).units:
        for sample in read_samples(unit, OPTIONS):
            if sample.problem is not None:
                continue
            if sample.key in keys:
                raise Unsound(f"two samples have the key {sample.key!r}")
            keys.add(sample.key)
            if not isinstance(sample.picture, bytes | Path) or not isinstance(sample.caption, str):
                raise Unsound(f"a sample without a problem has no picture or no caption: {sample!r:.200}")


def _png() -> bytes:
    return next(data for name, data in sorted(seeds.pictures().items()) if data.startswith(b"\x89PNG"))


def _folder_files() -> Files:
    lines = [json.dumps({"file_name": f"{number}.png", "text": text}) for number, text in enumerate(CAPTIONS)]
    return {LINES: "\n".join(lines).encode(), **{f"{number}.png": _png() for number in range(len(CAPTIONS))}}


def _table_files() -> Files:
    rows = ["file_name,text", *(f'{number}.png,"{text}"' for number, text in enumerate(CAPTIONS))]
    return {**_folder_files(), LINES: b"", TABLE: "\r\n".join(rows).encode()}


def _tar_files() -> Files:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, text in enumerate(CAPTIONS):
            for name, data in ((f"{number}.png", _png()), (f"{number}.txt", text.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return {TAR: file.getvalue()}


def _parquet_files() -> Files:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    columns = {"image": [{"bytes": _png()}] * len(CAPTIONS), "text": list(CAPTIONS)}
    parquet.write_table(pyarrow.table(columns), file, row_group_size=2)
    return {PARQUET: file.getvalue()}


def _mutate_headers(random: Random, files: Files) -> list[str]:
    """Change bytes of one of the headers of a tar shard, which are a tenth of it, or any bytes."""
    if random.random() < 0.3:
        return mutate_bytes(TAR)(random, files)
    data = files[TAR]
    start = 512 * random.randrange(len(data) // 512)
    block = {TAR: data[start : start + 512]}
    notes = mutate_bytes(TAR)(random, block)
    files[TAR] = data[:start] + block[TAR].ljust(512, b"\0")[:512] + data[start + 512 :]
    return [f"bytes {start:,} to {start + 511:,}: {note}" for note in notes]


captions = partial(Format, error=ChameleonCoreError)
READ = "find_units, read_samples"
FORMATS = (
    captions(
        "core-captions",
        _folder_files,
        mutate_lines(LINES, ("file_name", "text", "..", "0.png")),
        _read,
        what=f"{LINES} of a folder of pictures: {READ}",
        share=0.5,
    ),
    captions(
        "core-captions-table",
        _table_files,
        mutate_bytes(TABLE),
        _read,
        what=f"{TABLE} of a folder of pictures: {READ}",
        share=0.5,
    ),
    captions("core-tar", _tar_files, _mutate_headers, _read, what=f"a WebDataset tar shard: {READ}", share=1),
    captions(
        "core-parquet",
        _parquet_files,
        mutate_bytes(PARQUET),
        _read,
        what=f"a parquet file: {READ}",
        share=0.5,
        needs="pyarrow",
    ),
)
