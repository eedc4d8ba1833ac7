"""The state of a run on disk, and the records of its progress."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._files import replacing
from ..errors import FileFormatError

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state, replacing the one before only once it is whole."""
    with replacing(folder / CHECKPOINT) as temporary:
        torch.save(dict(state), temporary)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that was saved last, or None where there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise FileFormatError(
            f"{path} is not a checkpoint of a training run: {error}. Delete it to start over."
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise FileFormatError(f"{path} is not a checkpoint of a training run. Delete it to start over.")
    return state


class RunLog:
    """Records as JSON lines. One that continues a run drops what was recorded after its checkpoint."""

    def __init__(self, path: Path | None, *, step: int) -> None:
        self._path = path
        self.records: list[dict[str, Any]] = []
        if path is None:
            return
        if path.exists():
            self.records = [record for record in read_log(path) if record["step"] <= step] if step else []
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Add a record; it is on disk when this returns."""
        self.records.append(record)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a run. The last line may be cut short by a run that was killed: it is left out."""
    records = []
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise FileFormatError(f"{path}, line {number}, is not valid JSON: {error}.") from error
    return records
