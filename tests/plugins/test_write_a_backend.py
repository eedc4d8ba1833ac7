"""docs/write-a-backend.md, followed to the letter: its files are written, its commands run, their output compared."""

from __future__ import annotations

import os
import re
import shlex
import site
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "write-a-backend.md"
BLOCK = re.compile(r"^```(?P<kind>\w+)(?P<word> [\w-]+)?\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (?P<path>\S+)\n")
COMMAND = re.compile(r"^\$ (?P<command>.*)\n(?P<output>(?:(?!\$ ).*\n)*)", re.MULTILINE)

pytest.importorskip("hatchling", reason="the walk builds a package, for which CI's session `plugins` has hatchling")
pytest.importorskip("editables", reason="the walk installs its package in place")


class Environment(NamedTuple):
    """A Python environment that also sees everything installed in this one."""

    folder: Path
    python: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the page, offline."""
        program, *arguments = shlex.split(command)
        if program == "chameleon":
            words = ["-c", "from chameleon_core.cli import main; main()"]
        else:
            words = [] if program == "python" else ["-m", program]
        settings = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return subprocess.run(
            [self.python, *words, *arguments],
            cwd=self.folder,
            env={**os.environ, **settings, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    own = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True
    )
    # Packages of this environment are found there, after those of that environment.
    lines = [f"import site; site.addsitedir({folder!r})" for folder in site.getsitepackages()]
    (Path(own.stdout.strip()) / "parent.pth").write_text("\n".join(lines))
    folder = tmp_path / "acme"
    folder.mkdir()
    return Environment(folder, python)


def steps() -> Iterator[tuple[str, str, str]]:
    """Yield the blocks in order: their kind, the word after it, and their text."""
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        yield block["kind"], (block["word"] or "").strip(), block["text"]


def test_the_tutorial_works(environment: Environment) -> None:
    for kind, word, text in steps():
        if word == "no-run":
            continue
        if kind == "console":
            for command in COMMAND.finditer(text):
                done = environment.run(command["command"])
                assert (done.returncode != 0) == (word == "fails"), f"$ {command['command']}\n{done.stdout}"
                assert shown(command["output"]).search(done.stdout), f"$ {command['command']}\n{done.stdout}"
        else:
            name = FILE.match(text)
            assert name, f"a block doesn't say which file it is:\n{text}"
            path = environment.folder / name["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def shown(output: str) -> re.Pattern[str]:
    """Return a pattern of a command's expected output: `…` matches anything, and alone on a line any lines."""
    lines = []
    for line in output.splitlines():
        pattern = re.escape(line).replace("…", ".*?")
        # The space in a table depends on what else is listed.
        lines.append("(?s:.*?)" if line == "…" else re.sub(r"(?:\\ ){2,}", r"\\s+", pattern) + r"\s*\n")
    return re.compile("".join(lines))


def test_what_is_shown_is_compared() -> None:
    assert shown("a …\n…\nd\n").search("a b\nc\nd\n")
    assert not shown("a …\n…\nd\n").search("a b\nc\n")
    assert not shown("1 passed\n").search("2 passed\n")
