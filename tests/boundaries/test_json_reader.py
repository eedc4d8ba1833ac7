"""The reader of JSON that three packages have: whatever a file is, only their own errors come."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

DAMAGED = [
    b"",
    b"{",
    b"\xff\xfe{\0}\0",
    b'{"a": "\xe9"}',
    b'{"a": ' + b"1" * 5_000 + b"}",
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b"[" * 100_000,
    b'{"a":' * 100 + b"1" + b"}" * 100,
    rb'{"a": "\ud800"}',
    rb'{"\uDFFF": 1}',
    b"[1]",
    b"null",
    b'"secret"',
]


@pytest.fixture(params=["chameleon_core", "chameleon_vq", "chameleon_text"])
def package(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"{request.param}._files")


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: ascii(content[:20]))
def test_a_damaged_file_is_named_and_not_quoted(package: ModuleType, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(package.FileFormatError, match=r"some\.json .*\.$") as caught:
        package.read_json(path)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_none_is_not_opened(package: ModuleType, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero", tmp_path / ("n" * 300), tmp_path / "loop"):
        with pytest.raises(package.FileAccessError, match=r"\.$"):
            package.read_json(path)
    for path in (tmp_path / "absent", tmp_path / "a\0b", None):
        with pytest.raises(package.MissingFileError, match=r"\.$"):
            package.read_json(path)


def test_what_is_whole_is_read(package: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1, "a": [2, 1e300], "\xf0\x9f\x98\xba": "' + rb"\ud83d\ude3a" + b'"}')
    assert package.read_json(path) == {"a": [2, 1e300], "\U0001f63a": "\U0001f63a"}
    assert package.parse_json("[" * 64 + "]" * 64, "nested")
    assert package.parse_json('{"a": Infinity}', "a", finite=False) == {"a": float("inf")}
    assert package.parse_json('["\\udcff"]', "names", surrogates=True) == ["\udcff"]
