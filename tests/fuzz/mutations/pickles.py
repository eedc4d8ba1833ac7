"""Mutations of what ``torch.save`` writes: other values in the saved state, another pickle in the archive, bytes."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import torch

from ..engine import Files, Mutate
from .bytes_ import change_bytes, how_many

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**5_000, 0.5, float("nan"), float("inf"), "", "a", "\ud800", b"a"),
    *([], {}, (), set(), [None], {0: 1}, {"step": 1}, {None: None}, [0] * 10_000, 3 + 4j, "x" * 10_000),
)
MEMBERS = (
    *(
        b"",
        b"\x80\x02.",
        b"\x80\x02N.",
        b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"cos\nsystem\n(S'true'\ntR.",
    ),
    *(b"(" * 100_000, b"\x80\x02]q\x00h\x00a.", b"cbuiltins\ngetattr\n.", b"\x80\x02\x8b\xff\xff\xff\x7f.", b"0" * 64),
)

_MOST_NUMBERS = 2**24


def _saved(value: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


_WHOLE = {
    "a plain pickle": pickle.dumps({"step": 1}),
    "an old file without tensors": _saved({"step": 1}, legacy=True),
    "a tensor": _saved(torch.zeros(2)),
    "a module": _saved(torch.nn.Linear(1, 1)),
    "an archive of nothing": b"PK\x05\x06" + bytes(18),
    "not an archive": b"PK\x03\x04" + bytes(100),
    "a tar": b"checkpoint".ljust(257, b"\0") + b"ustar" + bytes(250),
}


def mutate_pickle(name: str) -> Mutate:
    """Break one file of ``torch.save``."""

    def mutate(random: Random, files: Files) -> list[str]:
        kind = random.choices(("values", "archive", "bytes", "whole"), (58, 20, 18, 4))[0]
        if kind == "whole":
            what = random.choice(sorted(_WHOLE))
            files[name] = _WHOLE[what]
            notes = [f"is {what}"]
        elif kind == "bytes":
            files[name], note = change_bytes(random, files[name])
            notes = [note]
        elif kind == "archive":
            files[name], note = _change_archive(random, files[name])
            notes = [note]
        else:
            state = [torch.load(io.BytesIO(files[name]), weights_only=True)]
            notes = [_change_value(random, state) for _ in range(how_many(random))]
            buffer = io.BytesIO()
            torch.save(state[0], buffer)
            files[name] = buffer.getvalue()
        return [f"{name}: {note}" for note in notes]

    return mutate


def _change_value(random: Random, holder: list[Any]) -> str:
    container: Any = holder
    key: Any = 0
    path = ""
    while isinstance(container[key], (dict, list)) and container[key] and random.random() < 0.8:
        container = container[key]
        key = random.choice(list(container)) if isinstance(container, dict) else random.randrange(len(container))
        path += f".{key}" if isinstance(container, dict) else f"[{key}]"
    if container is not holder and random.random() < 0.2:
        del container[key]
        return f"{path[:60]} removed"
    if isinstance(container, dict) and random.random() < 0.15:
        odd = random.choice(("a", 7, None, ("a", 1), "\ud800", 2**70))
        container[odd] = container.pop(key)
        return f"{path[:60]} under the key {odd!r}"
    value = container[key]
    is_odd = isinstance(value, torch.Tensor) and random.random() < 0.7
    # One that was changed before may have no memory for its numbers, or another layout.
    is_plain = is_odd and value.numel() <= _MOST_NUMBERS and not value.is_meta and not value.is_sparse
    tensors = _odd_tensors(value) if is_plain else {}
    if tensors:
        what = random.choice(sorted(tensors))
        container[key] = tensors[what](value)
        return f"{path[:60]} is {what}"
    container[key] = copy.deepcopy(random.choice((*ODD, torch.zeros(()), torch.zeros(3, dtype=torch.uint8))))
    new = container[key]
    return f"{path[:60]} = {'10**5000' if isinstance(new, int) and new > 2**64 else str(new)[:40]}"


def _odd_tensors(value: torch.Tensor) -> dict[str, Callable[[torch.Tensor], Any]]:
    return {
        "empty": lambda tensor: tensor.new_zeros(0),
        "one number": lambda tensor: tensor.new_zeros(()),
        "flat": lambda tensor: tensor.flatten(),
        "longer": lambda tensor: torch.cat([tensor.flatten(), tensor.flatten()]),
        "NaN": lambda tensor: torch.full(tensor.shape, float("nan")),
        "complex": lambda tensor: tensor.to(torch.complex64),
        "bytes": lambda tensor: tensor.to(torch.uint8),
        "float16": lambda tensor: tensor.half(),
        "without memory": lambda tensor: tensor.to("meta"),
        "sparse": lambda tensor: tensor.to_sparse() if tensor.ndim else tensor,
        "expanded to 2**40": lambda tensor: tensor.new_zeros(1).expand(2**40),
        "a parameter": lambda tensor: torch.nn.Parameter(tensor.float()),
    }


def _change_archive(random: Random, data: bytes) -> tuple[bytes, str]:
    """Other bytes for one member, in an archive that is whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except zipfile.BadZipFile:
        return change_bytes(random, data)
    names = sorted(members)
    name = random.choice([each for each in names if each.endswith("data.pkl")] * 3 + names)
    kind = random.choice(("changed", "changed", "replaced", "removed"))
    if kind == "changed":
        members[name], note = change_bytes(random, members[name])
    elif kind == "replaced":
        members[name] = random.choice(MEMBERS)
        note = f"is {members[name][:20]!r}"
    else:
        del members[name]
        note = "isn't there"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for each, content in members.items():
            archive.writestr(zipfile.ZipInfo(each), content)
    return buffer.getvalue(), f"{name} {note}"
