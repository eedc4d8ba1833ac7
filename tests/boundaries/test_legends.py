"""The letters of axes mean in each file's legend what the glossary says, since one letter is one axis."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages/*/src", "examples", "recipes", "benchmarks")
FREE = set("FJPUXY")
LEGEND = re.compile(r"\bShapes: (.*?)\.?(?:\n\n|$)", re.DOTALL)
# "B batch", "H W pixels", "X and Y values", "M = h·w positions", "Z = 2^D codes"
ENTRY = re.compile(r"((?:[A-Zh-w](?: and | ))+)(?:= \S+ )?(.+)")
SMALL_WORDS = {"a", "and", "each", "for", "in", "number", "of", "one", "or", "the", "too", "any", "all"}


def words(text: str) -> set[str]:
    """Return the words of a meaning that say something, in the singular."""
    return {each.removesuffix("s") for each in re.findall(r"[a-z]+", text.lower())} - SMALL_WORDS


def glossary() -> dict[str, set[str]]:
    """Return the words for each fixed letter, from the table of axes."""
    axes = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").partition("## Axes")[2]
    cells = re.findall(r"\| ([A-Z]|h w) \| ([^|]+) (?=\|)", axes)
    return {letter: words(re.sub("`.*?`", "", meaning)) for letters, meaning in cells for letter in letters.split()}


def legend(path: Path) -> str | None:
    """Return the legend in the docstring of a file, in a line."""
    found = LEGEND.search(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    return " ".join(found[1].split()) if found else None


def meanings(text: str) -> Iterator[tuple[str, str]]:
    """Yield each letter of a legend and its meaning."""
    for part in re.sub(r"\(.*?\)", "", text).split(", "):
        if entry := ENTRY.fullmatch(part.strip()):
            for letter in re.findall(r"\b[A-Za-z]\b", entry[1]):
                yield letter, entry[2]


FILES = sorted(path for folder in FOLDERS for each in ROOT.glob(folder) for path in each.rglob("*.py") if legend(path))


def test_the_glossary_has_each_letter_once() -> None:
    letters = glossary()
    assert {"B", "T", "h", "w", "Z"} <= letters.keys()
    assert not FREE & letters.keys()
    assert FREE | {each for each in letters if each.isupper()} == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_a_legend_is_read() -> None:
    text = "B rows (pictures, too), H W pixels, M = h·w positions, Z = 2^D codes, X and Y values, n ≤ N first codes"
    assert list(meanings(text)) == [
        ("B", "rows"),
        ("H", "pixels"),
        ("W", "pixels"),
        ("M", "positions"),
        ("Z", "codes"),
        ("X", "values"),
        ("Y", "values"),
        ("n", "≤ N first codes"),
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_fixed_letter_means_what_the_glossary_says(path: Path) -> None:
    letters = glossary()
    wrong = [
        f"{letter} {meaning!r}"
        for letter, meaning in meanings(legend(path) or "")
        if letter in letters and not words(meaning) & letters[letter]
    ]
    assert not wrong, (
        f"{', '.join(wrong)}: use one of the free letters {', '.join(sorted(FREE))}, or the glossary's words."
    )
