"""The published emoji sets: where they come from, their verification, and the drawings in them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Package:
    """A package on the npm registry, pinned to its bytes."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        """The file name that ``npm pack`` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Style:
    """An emoji set drawn by one team. ``labelled_by`` is "hexcode", or "label" where the set lists no code points."""

    name: str
    package: Package
    licence: str
    artist: str
    labelled_by: str = "hexcode"


LABELS = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")

STYLES = (
    Style(
        "noto",
        Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
        licence="Apache-2.0",
        artist="Google",
    ),
    Style(
        "twemoji",
        Package("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
        licence="CC-BY-4.0",
        artist="Twitter",
    ),
    Style(
        "fluent",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
        licence="MIT",
        artist="Microsoft",
    ),
    Style(
        "noto-v1",
        Package("@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
        licence="Apache-2.0",
        artist="Google",
        labelled_by="label",
    ),
    Style(
        "emojione",
        Package("@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
        licence="CC-BY-4.0",
        artist="EmojiOne (version 2.3.0)",
        labelled_by="label",
    ),
)


class SourceError(RuntimeError):
    """A package can't be fetched, or differs from the pinned one."""


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's archive in ``folder``, fetched through npm if it is missing, with its bytes verified."""
    archive = folder / package.archive
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SourceError(
                f"{archive} is missing and npm, which would fetch it, isn't installed. Install Node.js, or put the "
                "file there."
            )
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", f"{package.name}@{package.version}", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SourceError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SourceError(f"{archive} has sha256 {found}, expected {package.sha256}. Delete it and run again.")
    return archive


def read_member(archive: Path, member: str) -> Any:
    """Return the contents of the JSON file ``member`` of a package."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"package/{member}")
        if file is None:
            raise SourceError(f"{archive} has no file {member}.")
        return json.load(file)


@dataclass(frozen=True)
class Label:
    """An emoji in Unicode's data; ``group`` 3–7 are animals, food, travel, activities and objects."""

    name: str
    hexcode: str
    group: int | None


def read_labels(archive: Path) -> list[Label]:
    """Return every base emoji (no skin tones), in Unicode's order."""
    return [
        Label(entry["label"].lower(), entry["hexcode"], entry.get("group"))
        for entry in sorted(read_member(archive, "en/data.json"), key=lambda entry: entry.get("order", 0))
    ]


@dataclass(frozen=True)
class Drawing:
    """An SVG, and whether to mirror it after rendering."""

    svg: str
    mirrored: bool = False


class DrawingSet:
    """The drawings of one style, found by code points or by label."""

    def __init__(self, style: Style, archive: Path) -> None:
        self.style = style
        self._icons: dict[str, Any] = read_member(archive, "icons.json")
        self._names_by_hexcode: dict[str, str] = {
            _without_selectors(hexcode): name for hexcode, name in read_member(archive, "chars.json").items()
        }

    def labelled(self, labels: list[Label]) -> Iterator[tuple[Label, Drawing]]:
        """Yield the drawings that have a label, in the order of the labels."""
        for label in labels:
            if self.style.labelled_by == "hexcode":
                name = self._names_by_hexcode.get(_without_selectors(label.hexcode))
            else:
                name = _slug(label.name)
            drawing = None if name is None else self._drawing(name)
            if drawing is not None:
                yield label, drawing

    @cached_property
    def _size(self) -> tuple[int, int]:
        return self._icons["width"], self._icons["height"]

    def _drawing(self, name: str) -> Drawing | None:
        mirrored = False
        aliases = self._icons.get("aliases", {})
        while name not in self._icons["icons"]:
            if name not in aliases:
                return None
            alias = aliases[name]
            unknown = set(alias) - {"parent", "hFlip", "hidden"}
            if unknown:
                raise SourceError(
                    f"{self.style.name}: the alias {name!r} has the unknown transformations {sorted(unknown)}. "
                    "Expected only hFlip."
                )
            mirrored ^= alias.get("hFlip", False)
            name = alias["parent"]
        icon = self._icons["icons"][name]
        width, height = icon.get("width", self._size[0]), icon.get("height", self._size[1])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )
        return Drawing(svg, mirrored)


def _without_selectors(hexcode: str) -> str:
    """Return code points without the variation selector, which not all sets write."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")
