"""The log of a run: a JSON object per line, one line per logged step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import replacing
from ..errors import FileFormatError


class TrainingLog:
    """Appends entries to a file. Of an earlier run's entries, those up to ``steps_done`` are kept."""

    def __init__(self, path: str | os.PathLike[str], *, steps_done: int = 0) -> None:
        self.path = Path(path)
        kept = [entry for entry in read_log(path) if entry["step"] <= steps_done] if self.path.exists() else []
        with replacing(self.path) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")

    def __repr__(self) -> str:
        return f"TrainingLog({str(self.path)!r})"

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it is on disk when this returns, so that another program can follow the run."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the entries of a log, without a last line that was cut short.

    Raises ``FileFormatError`` where any other line isn't one of a log.
    """
    # Split as bytes: str.splitlines also splits at U+0085 and U+2028, which a JSON string may hold.
    lines = Path(path).read_bytes().splitlines(keepends=True)
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
            if type(entry["step"]) is not int:
                raise TypeError
        # ValueError: not JSON, not UTF-8, or an integer of thousands of digits.
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise FileFormatError(
                f"{path}:{number} is not a line of a training log: {line[:80]!r}. "
                "Expected a JSON object with the integer 'step'; delete the line."
            ) from error
        entries.append(entry)
    return entries


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
