"""The words of the project: one term for one idea, and none that readers of the field's documentation would stumble on.

What is listed here was written once and replaced everywhere; CONTRIBUTING.md says how the project writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages", "docs", "examples", "recipes", "benchmarks", "tests")
SUFFIXES = {".py", ".md", ".toml"}

RETIRED = {
    r"weigh(s|ed) (sum|mean|average)|weighed by": "weighted",
    r"\bGo(es)? on with|\bgoing on with|\bwent on with": "continue",
    r"what there is comes back": "the partial … is returned",
    r"\bchecked at once": "checked eagerly",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"(can't|can not|cannot|isn't to) be had\b|to be had\b": "isn't available",
    r"\bstrangers?\b|\bstranger's\b": "third-party, or a reader",
    r"anybody's": "any",
    r"\bits company\b|whatever company": "the rest of the batch",
    r"no number any more": "NaN or infinite",
    r"(integer|number)s? from \d+(?! to)|\bfrom \d+ on\b": "≥",
    r"\bThe same for several": "say what it does",
    r"\b(came|comes|come) to (its|an|the) end": "finished",
    r"\bturned[ _]head": "repacked, column-major",
    r"\bthe reference('s)?\b": "transformers",
    r"\bwhole numbers?\b": "integer",
    r"\baffair\b": "say whose responsibility it is",
    r"\bby heart\b": "memorized",
}
# Where a phrase is right as it stands: its file and a part of the line.
ALLOWED = {("packages/chameleon-core/CHANGELOG.md", "`model.turned_head` is called `repacked_head`")}


def files() -> Iterator[Path]:
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "noxfile.py"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path != Path(__file__) and "build" not in path.parts:
                yield path


@pytest.mark.parametrize("phrase", RETIRED)
def test_retired_phrases_stay_away(phrase: str) -> None:
    found = []
    for path in files():
        name = str(path.relative_to(ROOT))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            allowed = any(name == file and part in line for file, part in ALLOWED)
            if re.search(phrase, line, re.IGNORECASE) and not allowed:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, f"write instead: {RETIRED[phrase]}\n" + "\n".join(found)


def test_a_retired_phrase_is_found() -> None:
    assert re.search("|".join(RETIRED), "The tensor can't be had any more.", re.IGNORECASE)
    assert not re.search("|".join(RETIRED), "The tensor isn't available.", re.IGNORECASE)
