"""Configurations in YAML: mappings, lists and scalars, read by PyYAML's safe loader within limits.

Aliases and tags are refused, so that a file is never more than its text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .._files import MAX_DEPTH, read_bytes
from ..errors import FileFormatError

_MOST_BYTES = 2**16
"""The largest file that is read; a configuration has a few kilobytes, of which PyYAML reads about 100 a millisecond."""
_PLAIN = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))
"""The tags of the values that JSON has, too."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a file.

    Raises ``MissingFileError``, ``FileAccessError``, and ``FileFormatError`` for anything else: what isn't YAML,
    aliases, tags, names that are there twice or aren't texts, other values than JSON has, several documents.
    """
    content = read_bytes(path)
    if len(content) > _MOST_BYTES:
        raise FileFormatError(
            f"{path} has {len(content):,} bytes, expected a configuration of at most {_MOST_BYTES:,}."
        )
    try:
        value = yaml.load(content.decode("utf-8-sig"), _Loader)
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path} is not YAML: byte {error.start:,} of it isn't UTF-8. Save it as UTF-8."
        ) from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1:,}: "
        raise FileFormatError(
            f"{path} is not YAML that is read here: {line}{error.problem or error.context}."
        ) from error
    except yaml.YAMLError as error:  # a character that YAML doesn't have
        raise FileFormatError(f"{path} is not YAML that is read here: {str(error).splitlines()[0]}.") from error
    except (ValueError, OverflowError) as error:
        raise FileFormatError(f"{path} is not YAML that is read here: a number in it is out of range.") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path} holds a {type(value).__name__}, expected a mapping.")
    return value


def yaml_text(data: Mapping[str, Any]) -> str:
    """Return the text of a mapping of what JSON has, in its order."""
    text: str = yaml.safe_dump(dict(data), sort_keys=False)
    return text


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """PyYAML's safe loader, for plain values of bounded depth."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next value. An alias isn't one, and neither are other values than JSON has."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event.start_mark, "an alias, which may make a small file large")
        if getattr(event, "tag", None) is not None:
            self._refuse(event.start_mark, f"the tag {event.tag!r:.80}")
        if self._depth > MAX_DEPTH:
            self._refuse(event.start_mark, f"mappings and lists are nested deeper than {MAX_DEPTH} levels")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node.tag not in _PLAIN:
            self._refuse(node.start_mark, f"a value of the kind {node.tag!r:.80}")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, whose names are texts and are there once."""
        names = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                self._refuse(key.start_mark, f"the name {str(key.value)!r:.80} is no text")
            if key.value in names:
                self._refuse(key.start_mark, f"the name {key.value!r:.80} is there twice")
            names.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return made

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return the value of a node, which is finite where it is a number."""
        value = super().construct_object(node, deep=deep)
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(node.start_mark, f"the number {node.value!r:.80} isn't finite")
        return value

    def _refuse(self, mark: yaml.Mark, what: str) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=what, problem_mark=mark)
