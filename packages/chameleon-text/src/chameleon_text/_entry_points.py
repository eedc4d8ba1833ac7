# Vendored. Source: packages/chameleon-backends. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Find the entry points of a group, whatever state the metadata of the installed distributions is in.

``importlib.metadata.entry_points`` raises for all of them where one distribution's files are damaged.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import PurePath

import msgspec

UNKNOWN = "unknown"


class FoundEntryPoint(msgspec.Struct, frozen=True):
    """An entry point, and the distribution whose metadata has it."""

    group: str
    """The group, which is the project of the hooks."""
    name: str
    """Its name, or the whole line where that has no ``=``."""
    value: str
    """What it names, ``"module"`` or ``"module:attribute"``; empty where the line has no ``=``."""
    distribution: str
    """The distribution's name, from the name of its folder where its metadata can't be read."""
    version: str
    """The distribution's version, found likewise."""

    @property
    def names(self) -> frozenset[str]:
        """What users may call it by: its own name and that of its distribution, normalized."""
        return frozenset({normalized(self.name), normalized(self.distribution)})

    def load(self) -> object:
        """Import what it names. Raises whatever that raises, and ``ValueError`` where it names nothing."""
        entry_point = importlib.metadata.EntryPoint(self.name, self.value, self.group)
        if entry_point.pattern.match(self.value) is None:
            raise ValueError(
                f"its entry point {self.name!r} is {self.value!r}; it must have the form 'name = module' or "
                "'name = module:attribute'"
            )
        return entry_point.load()


def normalized(name: str) -> str:
    """Return a name as package indexes compare it: ``normalized("Acme_Flash.2") == "acme-flash-2"`` (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def entry_points(prefix: str) -> list[FoundEntryPoint]:
    """Return the entry points of every group whose name starts with ``prefix``, in the order that plugins load in.

    That order is by distribution, then by name. Of several distributions of one name, the first on ``sys.path`` counts,
    as it does for imports.
    """
    found: list[FoundEntryPoint] = []
    seen: set[str] = set()
    for distribution in _distributions():
        key = normalized(_folder_name(distribution)[0])
        if key == UNKNOWN or key not in seen:
            seen.add(key)
            found += _of(distribution, prefix)
    return sorted(found, key=lambda each: (normalized(each.distribution), normalized(each.name), each.value))


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution, or why there is none."""
    try:
        return str(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    except Exception:  # damaged metadata, of whatever kind
        return UNKNOWN


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    """Yield what is installed; where a third-party finder fails, what was found before it."""
    try:
        yield from importlib.metadata.distributions()
    except Exception:
        return


def _of(distribution: importlib.metadata.Distribution, prefix: str) -> Iterator[FoundEntryPoint]:
    # Most distributions have none of these groups; only for the others is their metadata read.
    lines = [each for each in _lines(_text(distribution)) if each[0].startswith(prefix)]
    if lines:
        name, version = _name(distribution)
        for group, line in lines:
            left, _, right = line.partition("=")
            yield FoundEntryPoint(group, left.strip(), right.strip(), name, version)


def _text(distribution: importlib.metadata.Distribution) -> str:
    try:
        return distribution.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as error:
        # The lines of a group may be whole where another's aren't.
        return bytes(error.object).decode("utf-8", errors="replace")
    except Exception:  # a folder in its place, no permission, a damaged archive
        return ""


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line of an ini file with its section."""
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")):
            yield section, line


def _name(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Return the name and the version: from the metadata, or where that is damaged from the name of its folder."""
    try:
        stated: tuple[object, object] = (distribution.metadata["Name"], distribution.metadata["Version"])
    except Exception:
        stated = (None, None)
    name, version = (
        each if isinstance(each, str) and each.strip() else instead
        for each, instead in zip(stated, _folder_name(distribution), strict=True)
    )
    return name, version


def _folder_name(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Return the name and the version in ``acme_flash-0.2.dist-info``."""
    stem, _, suffix = PurePath(str(getattr(distribution, "_path", ""))).name.rpartition(".")
    name, _, version = stem.partition("-")
    return (name, version or UNKNOWN) if name and suffix in ("dist-info", "egg-info") else (UNKNOWN, UNKNOWN)
