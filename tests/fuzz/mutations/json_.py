"""Mutations of JSON that stay JSON, or nearly: other types, other sizes, other keys; and faults of the text itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from ..engine import Files, Mutate
from .bytes_ import change_bytes, how_many


class Raw(str):
    """JSON text that is written as it stands, whether it is JSON or not."""


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may repeat."""


SMALL = (None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.0, "", "a", "0", "16", "true", (), {})
NUMBERS = (
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30),
    *(1_000, 65_535, 65_536, 1_000_000, 100_000_000, 1e-320, 1e-30, 1e30, 1.7e308, 3.5e38, 1.0000001),
    *map(Raw, ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 4301, "-" + "9" * 5000, "1e999999999", "01")),
)
TEXTS = (
    *("\x00", "a\x00b", "\ufeff", "../../etc/passwd", "/dev/null", "C:\\x", " ", "\n", "é" * 3, "\U0001f600", "‮"),
    *("x" * 10_000, "<s>", "<", "<image>", "</s>", "IMGIMGAZ", "IMGIMGZ", "IMGIMGJJJJJJJJJJZ", "IMGIMGAAAAAAABZ"),
    *("float32", "float64", "int8", "complex64", "float8_e4m3fn", "cuda", "meta", "NaN", "__class__", "self"),
    *map(Raw, ('"\\ud800"', '"\\udfff\\ud800"', '"a\\ud83d"')),
)
SHAPES = (
    *([None], [[]], [0], [1, 2], [-1], ["a"], [True], {"": None}, {"a": 1}, {"height": 1, "width": 1}),
    *([0] * 10_000, ["a"] * 1_000, [[0]] * 100, {str(number): number for number in range(1_000)}),
    *map(Raw, ("[" * 500 + "]" * 500, "[" * 100_000 + "]" * 100_000, '{"a":' * 2_000 + "1" + "}" * 2_000)),
    *map(Raw, ("[" * 100_000, '{"a":1,"a":2}', '{"\\ud800":1}', "")),
)
# As text: nothing here may change when a tree that it was put into is changed again.
ODD: tuple[Any, ...] = (
    *(Raw(json.dumps(value)) if isinstance(value, (tuple, list, dict)) else value for value in SMALL * 2),
    *NUMBERS,
    *TEXTS,
    *(value if isinstance(value, Raw) else Raw(json.dumps(value)) for value in SHAPES),
)


def mutate_json(name: str, words: Sequence[str] = ()) -> Mutate:
    """Break one JSON file. ``words`` are keys and values of the format that its seed doesn't have."""

    def mutate(random: Random, files: Files) -> list[str]:
        files[name], notes = change_json(random, files[name], words)
        return [f"{name}: {note}" for note in notes]

    return mutate


def mutate_lines(name: str, words: Sequence[str] = ()) -> Mutate:
    """Break one line of a file that has a JSON value in each, or the lines themselves."""

    def mutate(random: Random, files: Files) -> list[str]:
        if random.random() < 0.3:
            files[name], note = change_bytes(random, files[name])
            return [f"{name}: {note}"]
        lines = files[name].splitlines(keepends=True)
        place = random.randrange(len(lines))
        changed, notes = change_json(random, lines[place], words)
        end = random.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"", b"\x85", b"\n\n"))
        lines[place] = changed.rstrip(b"\n") + end
        files[name] = b"".join(lines)
        if end != b"\n":
            notes = [*notes, f"it ends with {end!r}"]
        return [f"{name}: line {place + 1}: {note}" for note in notes]

    return mutate


def change_json(random: Random, data: bytes, words: Sequence[str] = ()) -> tuple[bytes, list[str]]:
    """JSON text with one change or a few, and what they were."""
    kind = random.choices(("values", "text", "bytes"), (80, 10, 10))[0]
    if kind == "bytes":
        data, note = change_bytes(random, data)
        return data, [note]
    if kind == "text":
        note, change = random.choice(_TEXT_FAULTS)
        return change(data), [note]
    tree = _Tree(json.loads(data), words)
    notes = [tree.change(random) for _ in range(how_many(random))]
    return tree.to_bytes(), notes


_TEXT_FAULTS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("a byte order mark", lambda data: b"\xef\xbb\xbf" + data),
    ("UTF-16", lambda data: data.decode().encode("utf-16")),
    ("UTF-32, big-endian", lambda data: data.decode().encode("utf-32-be")),
    ("Latin-1", lambda data: data[:-1] + "\xe9".encode("latin-1") + data[-1:]),
    ("an encoded surrogate", lambda data: data.replace(b'"', b'"\xed\xa0\x80', 1)),
    ("an overlong NUL", lambda data: data.replace(b'"', b'"\xc0\x80', 1)),
    ("single quotes", lambda data: data.replace(b'"', b"'")),
    ("a comment", lambda data: b"// a comment\n" + data),
    ("a comma after the last entry", lambda data: data.rstrip()[:-1] + b"," + data.rstrip()[-1:]),
    ("a value after the end", lambda data: data + b"{}"),
    ("twice", lambda data: data + data),
    ("nothing but white space", lambda data: b" \n\t"),
    ("nothing", lambda data: b""),
    ("null", lambda data: b"null"),
    ("a string", lambda data: b'"' + b"a" * 100 + b'"'),
    ("a number of 5,000 digits", lambda data: b"9" * 5_000),
    ("in a list", lambda data: b"[" + data + b"]"),
    ("100,000 open brackets", lambda data: b"[" * 100_000),
    ("a control character in a string", lambda data: data.replace(b'"', b'"\x01', 1)),
    ("100,000 blanks before it", lambda data: b" " * 100_000 + data),
)


class _Tree:
    """A JSON value whose parts are changed in place."""

    def __init__(self, root: Any, words: Sequence[str]) -> None:
        self.holder = [_as_pairs(root)]
        self.words = words

    def to_bytes(self) -> bytes:
        return dumps(self.holder[0]).encode("utf-8", "surrogatepass")

    def change(self, random: Random) -> str:
        """Change one place, chosen by a walk from the root, so that a long list isn't all that is ever hit."""
        container: Any = self.holder
        place, path = 0, ""
        while True:
            value = _get(container, place)
            if not isinstance(value, list) or not value or random.random() < 0.25:
                break
            container, place = value, random.randrange(len(value))
            path += f".{container[place][0]:.40}" if isinstance(container, Pairs) else f"[{place}]"
        what, new = self._changed(random, value)
        if random.random() < 0.3 and container is not self.holder:
            return f"{path or '.'} {self._change_container(random, container, place)}"
        _set(container, place, new)
        return f"{path or '.'} {what}"

    def _changed(self, random: Random, value: Any) -> tuple[str, Any]:
        near = _near(random, value)
        if near is not None and random.random() < 0.5:
            return f"{_short(value)} → {_short(near)}", near
        if self.words and random.random() < 0.3:
            new: Any = random.choice(self.words)
        elif random.random() < 0.1:
            new = self._any_value(random)
        else:
            new = random.choice(ODD)
        return f"{_short(value)} → {_short(new)}", new

    def _any_value(self, random: Random) -> Any:
        """A value from elsewhere in the same file."""
        value = self.holder[0]
        while isinstance(value, list) and value and random.random() < 0.8:
            value = _get(value, random.randrange(len(value)))
        return copy.deepcopy(value)  # a tree may not hold itself

    def _change_container(self, random: Random, container: list[Any], place: int) -> str:
        kind = random.choice(("removed", "repeated", "renamed", "new", "swapped"))
        if kind == "removed":
            del container[place]
        elif kind == "repeated":
            entry = container[place]
            again = (entry[0], random.choice(ODD)) if isinstance(container, Pairs) and random.random() < 0.5 else entry
            container.insert(random.randrange(len(container) + 1), again)
        elif kind == "swapped":
            other = random.randrange(len(container))
            if isinstance(container, Pairs):
                (one, first), (two, second) = container[place], container[other]
                container[place], container[other] = (one, second), (two, first)
            else:
                container[place], container[other] = container[other], container[place]
        elif isinstance(container, Pairs):
            key = str(random.choice((*self.words, *(text for text in TEXTS if not isinstance(text, Raw)))))
            value = container[place][1] if kind == "renamed" else random.choice((*ODD, *self.words))
            if kind == "renamed":
                container[place] = (key, value)
            else:
                container.append((key, value))
            return f"{kind}: {_short(key)} = {_short(value)}"
        else:
            container.insert(place, random.choice(ODD))
        return kind


def _near(random: Random, value: Any) -> Any:
    """A value of the same type that isn't far, or the same in another type; None where there is none."""
    if isinstance(value, bool):
        return random.choice((not value, int(value), str(value)))
    if isinstance(value, int):
        return random.choice(
            (value + 1, value - 1, -value, value * 2, value * 3 + 1, value << 20, value // 2, float(value), str(value))
        )
    if isinstance(value, float):
        return random.choice((-value, value * 2, value + 1, value * 1e300, str(value), [value]))
    if isinstance(value, str) and value:
        place = random.randrange(len(value))
        return random.choice(
            (
                value[:place] + value[place + 1 :],
                value[:place] + chr(random.choice((0, 65, 0x100, 0x2028, 0x1F600, 0xD800))) + value[place:],
                value.upper(),
                value.swapcase(),
                value + value,
                [value],
                value.encode("utf-8", "surrogatepass").hex(),
            )
        )
    if isinstance(value, Pairs):
        return random.choice(([value], [list(pair) for pair in value], Pairs(value[:1]), [key for key, _ in value]))
    if isinstance(value, list) and value:
        return random.choice((value[:-1], value[::-1], value * 2, value[:1] * 100, [value], value[0], ""))
    return None


def dumps(value: Any) -> str:
    """JSON of trees with ``Raw`` text and repeated keys."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {dumps(each)}" for key, each in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)


def _as_pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs((key, _as_pairs(each)) for key, each in value.items())
    return [_as_pairs(each) for each in value] if isinstance(value, list) else value


def _get(container: list[Any], place: int) -> Any:
    return container[place][1] if isinstance(container, Pairs) else container[place]


def _set(container: list[Any], place: int, value: Any) -> None:
    container[place] = (container[place][0], value) if isinstance(container, Pairs) else value


def _short(value: Any) -> str:
    text = dumps(value) if not isinstance(value, str) or isinstance(value, Raw) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text):,} characters)"
