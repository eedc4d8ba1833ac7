"""docs/write-a-backend.md, followed to the letter: its files are written, its commands run, their output compared."""

from __future__ import annotations

import os
import re
import shlex
import site
import subprocess
import sys
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


# What a command sees of the environment of the tests, besides SETTINGS. Not what pip, pytest, colours, a CI or the
# toolkit are told on the machine that runs this. PYTHONPATH is where the packages are that aren't installed.
INHERITED = ("HOME", "PATH", "PYTHONPATH", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH")
SETTINGS = {
    # Offline, and without the settings of a user or of the machine.
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    # What is printed has the same letters, lines and colours everywhere, and all of it arrives.
    "PYTHONUTF8": "1",
    "PYTHONUNBUFFERED": "1",
    "COLUMNS": "100",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "OMP_NUM_THREADS": "1",
}
SECONDS = 600
"""For one command; the slowest takes ten on a machine with nothing else to do."""


def variables() -> dict[str, str]:
    """Return the environment of a command."""
    return {**{name: os.environ[name] for name in INHERITED if name in os.environ}, **SETTINGS}


class Environment(NamedTuple):
    """A Python environment that also sees everything installed in this one."""

    folder: Path
    python: Path

    def run(self, command: str) -> Ended:
        """Run a command of the page, offline."""
        program, *arguments = shlex.split(command)
        if program == "chameleon":
            words = ["-c", "from chameleon_core.cli import main; main()"]
        else:
            words = [] if program == "python" else ["-m", program]
        try:
            done = subprocess.run(
                [self.python, *words, *arguments],
                cwd=self.folder,
                env=variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="backslashreplace",
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            printed = (error.stdout or b"").decode("utf-8", "backslashreplace")
            return Ended(command, f"stopped after {SECONDS} s", printed)
        return Ended(command, done.returncode, done.stdout)


class Ended(NamedTuple):
    """A command that has ended, or was stopped."""

    command: str
    status: int | str
    printed: str

    def check(self, expected: str, *, fails: bool) -> None:
        """Compare what was printed, and say all that is known where it differs."""
        wrong = []
        if isinstance(self.status, str) or (self.status != 0) != fails:
            wrong.append(f"It ended with {self.status}, expected {'a failure' if fails else '0'}.")
        lines = expected.splitlines(keepends=True)
        found = max(n for n in range(len(lines) + 1) if shown("".join(lines[:n])).search(self.printed))
        if found < len(lines):
            wrong.append(f"It printed nothing like line {found + 1} of the page's, {lines[found].rstrip()!r}.")
        if wrong:
            where = f"Python {sys.version}, {variables()}"
            # pytest would shorten an assertion's message.
            message = [f"$ {self.command}", *wrong, "", self.printed, "The page has:", expected, where]
            pytest.fail("\n".join(message), pytrace=False)


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
                environment.run(command["command"]).check(command["output"], fails=word == "fails")
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


def test_what_differs_is_said_with_all_that_was_printed() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        Ended("pytest", 1, "a b\nc\n").check("a …\n…\nd\n", fails=False)
    for part in ("$ pytest", "ended with 1, expected 0", "line 3 of the page's, 'd'", "a b\nc\n", "PIP_NO_INDEX"):
        assert part in str(caught.value)
    with pytest.raises(pytest.fail.Exception, match="stopped after 600 s, expected a failure"):
        Ended("pytest", "stopped after 600 s", "").check("", fails=True)
    Ended("pytest", 2, "a b\n").check("a …\n", fails=True)
