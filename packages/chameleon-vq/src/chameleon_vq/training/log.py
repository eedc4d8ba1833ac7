"""The log of a run: a JSON object per line, one line per logged step or validation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import parse_json, read_bytes, replacing, writing
from ..errors import FileFormatError


class TrainingLog:
    """Appends entries to a file. Of an earlier run's entries, those up to ``steps_done`` are kept.

    ``entries`` holds what was kept and appended. With a ``path`` of None nothing is written, and with ``writes=False``
    the file is only read.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, steps_done: int = 0, writes: bool = True) -> None:
        self.path = None if path is None else Path(path)
        self.entries: list[dict[str, Any]] = []
        if self.path is None:
            return
        if os.path.exists(self.path) and steps_done:
            self.entries = [entry for entry in read_log(self.path) if entry["step"] <= steps_done]
        if not writes:
            self.path = None
            return
        with writing(self.path), replacing(self.path) as temporary:
            temporary.write_text("".join(map(_line, self.entries)), encoding="utf-8")

    def __repr__(self) -> str:
        path = None if self.path is None else str(self.path)
        return f"TrainingLog({path!r}, {len(self.entries)} entries)"

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it is on disk when this returns, so that another program can follow the run."""
        self.entries.append(dict(entry))
        if self.path is not None:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the entries of a log, without a last line that was cut short.

    Raises ``MissingFileError``, ``FileAccessError``, and ``FileFormatError`` where any other line isn't one of a log.
    """
    # Split as bytes: str.splitlines also splits at U+0085 and U+2028, which a JSON string may hold.
    *lines, last = read_bytes(path).split(b"\n")
    entries = []
    for number, line in enumerate(lines if last[:1] in (b"", b"{") else [*lines, last], start=1):
        entry = parse_json(line, f"line {number} of {path}")
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            raise FileFormatError(
                f"line {number} of {path} is not one of a training log, expected a JSON object with the integer "
                "'step'. Delete the line."
            )
        entries.append(entry)
    return entries


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
