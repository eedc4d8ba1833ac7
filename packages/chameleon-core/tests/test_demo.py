"""The photographs that come with the package; the demo itself needs the siblings and is tested with them."""

from __future__ import annotations

from importlib.resources import files

PHOTOGRAPHS = files("chameleon_core") / "demo" / "photographs"


def test_the_photographs_are_small_jpegs() -> None:
    for name in ("chelsea.jpg", "coffee.jpg"):
        data = (PHOTOGRAPHS / name).read_bytes()
        assert data[:3] == b"\xff\xd8\xff"
        assert len(data) < 40_000


def test_each_file_has_its_author_and_licence_stated() -> None:
    stated = (PHOTOGRAPHS / "LICENSES.txt").read_text(encoding="utf-8")
    pictures = [each.name for each in PHOTOGRAPHS.iterdir() if each.name != "LICENSES.txt"]
    assert sorted(pictures) == ["chelsea.jpg", "coffee.jpg"]
    for name in pictures:
        (entry,) = (part for part in stated.split("\n\n") if part.startswith(name))
        assert all(field in entry for field in ("Title:", "Author:", "Licence:  CC0", "Source:"))
