"""Each package's changelog has one form, and a change of a package's source comes with an entry."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [f"chameleon-{name}" for name in ("vq", "text", "backends", "core", "emoji", "vllm", "serve")]
HEADINGS = ["Added", "Changed", "Fixed"]
# The rule is younger than these, which list everything as new.
FIRST_RELEASE = "2026.11.0"
VERSION = re.compile(r"\d{4}\.(?:[1-9]|1[0-2])\.\d+")
ENTRY = re.compile(r"^- (?:(?!\n- |\n\n).)*", re.MULTILINE | re.DOTALL)
WIDTH = 120

each_package = pytest.mark.parametrize("package", PACKAGES)


def changelog(package: str) -> str:
    return (ROOT / "packages" / package / "CHANGELOG.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Return the text of each second-level section by its title, in order."""
    _, *parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@each_package
def test_unreleased_changes_stand_above_the_releases(package: str) -> None:
    text = changelog(package)
    assert text.startswith("# Changelog\n")
    titles = list(sections(text))
    assert titles[0] == "Unreleased"
    assert all(VERSION.fullmatch(title) for title in titles[1:])
    numbers = [tuple(map(int, title.split("."))) for title in titles[1:]]
    assert numbers == sorted(set(numbers), reverse=True)


@each_package
def test_the_latest_release_is_the_version_of_the_package(package: str) -> None:
    pyproject = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(pyproject)["project"]["version"]
    assert list(sections(changelog(package)))[1] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@each_package
def test_changes_are_added_changed_or_fixed(package: str) -> None:
    for title, text in sections(changelog(package)).items():
        if title == FIRST_RELEASE:
            continue
        before, *parts = re.split(r"^### (.*)\n", text, flags=re.MULTILINE)
        found = parts[::2]
        assert not before.strip(), f"{title}: an entry stands under one of {HEADINGS}"
        assert found == [heading for heading in HEADINGS if heading in found], title
        for heading, entries in zip(found, parts[1::2], strict=True):
            assert ENTRY.match(entries.lstrip("\n")), f"{title}, {heading}: entries begin with a hyphen"
            assert not ENTRY.sub("", entries).strip(), f"{title}, {heading}: something is no entry"


@each_package
def test_entries_are_sentences_of_readable_lines(package: str) -> None:
    text = changelog(package)
    for entry in ENTRY.findall(text):
        assert re.match(r"- [A-Z`]", entry), entry
        assert entry.rstrip().endswith("."), entry
        assert all(line.startswith("  ") for line in entry.splitlines()[1:]), entry
    long = [line for line in text.splitlines() if len(line) > WIDTH]
    assert not long


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def commit_without_entry(root: Path, package: str, since: str = "") -> str | None:
    """Return the latest change of a package's source, where no change of its changelog came with it or after it.

    A commit with the line ``Changelog: none`` in its message changes nothing for users. ``since`` is the commit after
    which the rule holds, all of history by default.
    """
    folder = f"packages/{package}"
    commits = f"{since}..HEAD" if since else "HEAD"
    unmarked = ("--extended-regexp", "--grep=^Changelog: none", "--invert-grep")
    source = git(root, "log", "-1", "--format=%H", *unmarked, commits, "--", f"{folder}/src")
    entry = git(root, "log", "-1", "--format=%H", "--", f"{folder}/CHANGELOG.md")
    if not source or (entry and git(root, "merge-base", source, entry) == source):
        return None
    return git(root, "log", "-1", "--format=%h %s", source)


@each_package
def test_a_change_of_the_source_comes_with_an_entry(package: str) -> None:
    try:
        shallow = git(ROOT, "rev-parse", "--is-shallow-repository")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the history is needed, and this is no git checkout")
    if shallow == "true":
        pytest.skip("the history is needed, and this is a shallow clone")
    # The rule is as old as this file.
    since = git(ROOT, "log", "-1", "--diff-filter=A", "--format=%H", "--", str(Path(__file__).relative_to(ROOT)))
    missing = commit_without_entry(ROOT, package, since)
    assert missing is None, (
        f"{missing}: the source of {package} changed and its CHANGELOG.md didn't. Add an entry under Unreleased, or, "
        "where users see no difference, the line 'Changelog: none' to the commit's message."
    )


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository with a package whose first commit has source and changelog."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "somebody")
    git(tmp_path, "config", "user.email", "somebody@example.invalid")
    (tmp_path / "packages/a/src").mkdir(parents=True)
    change(tmp_path, "First", "src/a.py", "CHANGELOG.md")
    return tmp_path


def change(root: Path, message: str, *names: str) -> None:
    for name in names:
        with (root / "packages/a" / name).open("a") as file:
            file.write("changed\n")
    git(root, "add", "--all")
    git(root, "-c", "commit.gpgsign=false", "commit", "--quiet", "--message", message)


def test_a_change_without_an_entry_is_found(history: Path) -> None:
    assert commit_without_entry(history, "a") is None
    change(history, "Second", "src/a.py")
    assert "Second" in str(commit_without_entry(history, "a"))
    change(history, "Write the entry", "CHANGELOG.md")
    assert commit_without_entry(history, "a") is None


def test_the_rule_holds_from_a_commit_on(history: Path) -> None:
    change(history, "Second", "src/a.py")
    second = git(history, "rev-parse", "HEAD")
    assert commit_without_entry(history, "a", second) is None
    change(history, "Third", "src/a.py")
    assert "Third" in str(commit_without_entry(history, "a", second))


def test_a_change_that_says_that_it_needs_none_is_let_through(history: Path) -> None:
    change(history, "Move a function\n\nOnly inside the package.\n\nChangelog: none", "src/a.py")
    assert commit_without_entry(history, "a") is None
    change(history, "Third", "src/b.py")
    assert "Third" in str(commit_without_entry(history, "a"))
