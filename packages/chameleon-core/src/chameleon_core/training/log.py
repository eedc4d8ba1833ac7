"""The log of a run: a JSON object a line, one line a logged step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import replacing
from ..errors import FileFormatError


class TrainingLog:
    """Appends lines to a file. Of an earlier run's lines, those up to ``steps_done`` stay."""

    def __init__(self, path: str | os.PathLike[str], *, steps_done: int = 0) -> None:
        self.path = Path(path)
        kept = [entry for entry in read_log(path) if entry["step"] <= steps_done] if self.path.exists() else []
        with replacing(self.path) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line, at once, so that another program can follow the run."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a log. A last line that was cut off is left out; any other fault is a ``FileFormatError``."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            entry = json.loads(line)
            if not isinstance(entry["step"], int):
                raise TypeError
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise FileFormatError(f"{path}:{number} is not a line of a training log: {line[:80]!r}.") from error
        entries.append(entry)
    return entries


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
