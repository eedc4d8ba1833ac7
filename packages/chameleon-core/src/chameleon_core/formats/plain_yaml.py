"""The plain part of YAML that configurations of training use: nested mappings and lists of scalars.

Tags, anchors, aliases, several documents and texts over several lines are refused, so that a file is never more than
its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from .._files import MAX_DEPTH, read_bytes
from ..errors import FileFormatError

_MOST_BYTES = 2**20
"""The largest file that is read; a configuration has a few kilobytes."""
_KEY = re.compile(r"""("[^"]*"|'[^']*'|[^\s#"'\[\]{}&*!|>%@`,-][^#\[\]{}]*?)\s*:(?:\s+(.*))?""")
_INTEGER = re.compile(r"[-+]?\d{1,18}")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NAMES = {"": None, "~": None, "null": None, "true": True, "false": False}

Line = tuple[int, int, str]
"""The number of a line, its indentation and what it says."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a file.

    Raises ``MissingFileError``, ``FileAccessError``, and ``FileFormatError`` with the line that isn't understood.
    """
    content = read_bytes(path)
    if len(content) > _MOST_BYTES:
        raise FileFormatError(
            f"{path} has {len(content):,} bytes, expected a configuration of at most {_MOST_BYTES:,}."
        )
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path} is not YAML: byte {error.start:,} of it isn't UTF-8. Save it as UTF-8."
        ) from error
    lines = [_line(number, line) for number, line in enumerate(text.splitlines(), 1)]
    value = _Reader(path, [line for line in lines if line[2]]).block(0, MAX_DEPTH)
    if not isinstance(value, dict):
        raise FileFormatError(f"{path} holds a {type(value).__name__}, expected a mapping.")
    return value


def yaml_text(data: Mapping[str, Any], indent: str = "") -> str:
    """Return the text of a mapping whose values are mappings, lists of scalars, and scalars."""
    lines = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:\n{yaml_text(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}\n")  # JSON's scalars and lists are YAML's
    return "".join(lines)


class _Reader:
    """Reads the lines of a file from the first to the last."""

    def __init__(self, path: Path, lines: list[Line]) -> None:
        self._path = path
        self._lines = lines
        self._at = 0

    def block(self, indent: int, depth: int) -> Any:
        """Return the mapping or the list whose entries are indented by ``indent``, None where there is none."""
        found: Any = None
        while self._at < len(self._lines) and self._lines[self._at][1] >= indent:
            number, here, text = self._lines[self._at]
            if here > indent or not depth:
                self._refuse(number, "its indentation isn't that of the lines before" if depth else "it is too deep")
            self._at += 1
            if text == "-" or text.startswith("- "):
                found = [] if found is None else found
                entry = text[1:].strip()
                if not isinstance(found, list) or _KEY.fullmatch(entry) or not entry:
                    self._refuse(number, "expected an entry of a list of scalars")
                found.append(self._value(number, entry))
                continue
            match = _KEY.fullmatch(text)
            found = {} if found is None else found
            if match is None or not isinstance(found, dict):
                self._refuse(number, "expected 'name: value' or an entry of a list")
            name = str(self._value(number, match[1], is_key=True))
            if name in found:
                self._refuse(number, f"the name {name!r:.80} is there twice")
            found[name] = self._value(number, match[2]) if match[2] else self._inner(indent, depth)
        return found

    def _inner(self, indent: int, depth: int) -> Any:
        """Return what is below a name: a deeper block, or a list, which may be indented as its name is."""
        if self._at == len(self._lines):
            return None
        _, here, text = self._lines[self._at]
        if here > indent:
            return self.block(here, depth - 1)
        if here == indent and (text == "-" or text.startswith("- ")):
            return self._list(indent)
        return None

    def _list(self, indent: int) -> list[Any]:
        entries = []
        while self._at < len(self._lines):
            number, here, text = self._lines[self._at]
            if here != indent or not text.startswith("- "):
                break
            self._at += 1
            entries.append(self._value(number, text[1:].strip()))
        return entries

    def _value(self, number: int, text: str, *, is_key: bool = False) -> Any:
        """Return the value of a text on one line: a scalar, or a list or mapping of scalars in brackets."""
        if text[0] in "\"'":
            if len(text) < 2 or text[-1] != text[0] or text[0] in text[1:-1] or "\\" in text:
                self._refuse(number, "expected one quoted text")
            return text[1:-1]
        if is_key:
            return text
        if text == "{}":
            return {}
        if text[0] == "[" and text[-1] == "]":
            inner = text[1:-1].strip()
            parts = [part.strip() for part in inner.split(",")] if inner else []
            if any(not part or part[0] in "[]{}" for part in parts):
                self._refuse(number, "expected a list of scalars")
            return [self._value(number, part) for part in parts]
        if text[0] in "[]{}&*!|>%@`,":
            self._refuse(number, f"{text[0]!r} begins what isn't read: tags, anchors, texts over several lines")
        if _INTEGER.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text):
            return float(text)
        lower = text.lower()
        return _NAMES.get(lower, text)

    def _refuse(self, number: int, reason: str) -> NoReturn:
        raise FileFormatError(f"{self._path} is not YAML that is read here: line {number:,}: {reason}.")


def _line(number: int, text: str) -> Line:
    stripped = text.strip(" ")
    if stripped.startswith("#") or stripped == "---":
        return number, 0, ""
    if " #" in stripped:
        stripped = stripped[: stripped.index(" #")].strip(" ")
    return number, len(text) - len(text.lstrip(" ")), stripped
