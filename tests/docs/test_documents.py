"""The documentation does what it says: its Python blocks run, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READMES = [
    path for place in ("", "packages/*/", "examples/*/", "benchmarks/") for path in ROOT.glob(f"{place}README.md")
]
DOCUMENTS = sorted({*READMES, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")})
# A block that needs what a test doesn't have says what that is, as in `no-run (a GPU)`; it is compiled and not run.
FENCE = re.compile(r"^```python(?P<no_run> no-run \([^\n]+\))?\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
# Blocks of plugin-hooks.md that say `installed` are run by its own test.
KINDS = re.compile(r"python|python no-run \(.+\)|python installed")
# A block that begins with the name of a file is that file, which other tests write and run.
FILE = re.compile(r"# [\w/]+\.py\n")
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)(?P<target>[^)#\s]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of_a_document_run_one_after_the_other(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = document.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__document__"}
    for block in FENCE.finditer(text):
        # Blank lines first, so that a traceback names the line of the document.
        line = text[: block.start()].count("\n") + 1
        code = compile("\n" * line + block["code"], str(document), "exec")
        if block["no_run"] is None and not FILE.match(block["code"]):
            exec(code, namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_block_runs_or_says_why_not(document: Path) -> None:
    fences = re.findall(r"^```(python.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert not [fence for fence in fences if not KINDS.fullmatch(fence)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_document_lead_to_files(document: Path) -> None:
    targets = [link["target"] for link in LINK.finditer(document.read_text(encoding="utf-8"))]
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing
