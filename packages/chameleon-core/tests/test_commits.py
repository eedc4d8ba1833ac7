"""Commits: the files of a folder change together, what is published is on the disk, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chameleon_core import _commits
from chameleon_core._commits import COMMIT, committing, finish_commit, read_whole, scratch, stored
from chameleon_core._files import replacing, write_json, writing
from chameleon_core.errors import FileAccessError


def write(folder: Path, **content: str) -> None:
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")


def read(folder: Path) -> dict[str, str]:
    """What the folder's own readers find, wherever it is."""
    places = [folder, folder / COMMIT] if (folder / COMMIT).is_dir() else [folder]
    names = {path.name for place in places for path in place.iterdir() if not path.name.startswith(".")}
    paths = {name: stored(folder, name) for name in sorted(names)}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def killed(work: Callable[[], object]) -> None:
    """Run something in a process that is killed at its end."""

    def die() -> None:
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(die), 0)[1]) == -signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files of a first save."""
    folder = tmp_path / "folder"
    with committing(folder) as save:
        write(save, a="1", b="1")
    return folder


@pytest.fixture
def half_applied(folder: Path) -> Path:
    """A folder whose second save, of ``a``, ``c`` and ``d`` without ``b``, was killed when it had moved ``a``."""

    def save() -> None:
        def stop(source: Path, target: Path) -> None:
            if target.name == "c":
                os.kill(os.getpid(), signal.SIGKILL)
            os.rename(source, target)

        _commits.os.replace = stop  # type: ignore[attr-defined]
        with committing(folder, replaces=["b"]) as save:
            write(save, a="2", c="2", d="2")

    killed(save)
    return folder


def test_files_take_their_places_together_and_what_they_replace_goes(folder: Path) -> None:
    with committing(folder, replaces=["b", "model-*"]) as save:
        write(save, a="2", c="2")
        assert read(folder) == {"a": "1", "b": "1"}
    assert read(folder) == {"a": "2", "c": "2"}
    assert not hidden(folder)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_save_that_raises_leaves_the_folder_as_it_was(error: type[BaseException], folder: Path) -> None:
    def save_and_raise(target: Path) -> None:
        with committing(target, replaces=["*"]) as save:
            write(save, a="2")
            raise error

    with pytest.raises(error):
        save_and_raise(folder)
    assert read(folder) == {"a": "1", "b": "1"}
    assert not hidden(folder)
    with pytest.raises(error):
        save_and_raise(folder / "new")
    assert not (folder / "new").exists()


def test_a_save_within_a_save_is_part_of_it(folder: Path) -> None:
    with committing(folder) as save:
        with committing(save, replaces=["b"]) as within:
            assert within == save
            write_json(within / "config.json", {})
        assert not (folder / "config.json").exists()
        write(save, a="2")
    assert read(folder) == {"a": "2", "config.json": "{}\n"}


def test_until_all_files_are_in_place_the_folder_reads_as_the_new_one(half_applied: Path) -> None:
    before = sorted(path for path in half_applied.rglob("*"))
    assert [(half_applied / name).exists() for name in "abcd"] == [True, True, False, False]
    assert read(half_applied) == {"a": "2", "c": "2", "d": "2"}
    assert sorted(path for path in half_applied.rglob("*")) == before  # readers write nothing


def test_the_next_save_finishes_the_one_that_was_killed(half_applied: Path) -> None:
    with committing(half_applied) as save:
        write(save, a="3")
    assert read(half_applied) == {"a": "3", "c": "2", "d": "2"}
    assert not hidden(half_applied)


def test_a_single_file_that_is_written_later_is_the_newer_one(half_applied: Path) -> None:
    with replacing(half_applied / "d") as temporary:
        write(temporary.parent, d="3")
    assert read(half_applied) == {"a": "2", "c": "2", "d": "3"}
    assert not hidden(half_applied)


def test_what_killed_saves_left_is_removed_and_what_others_have_is_not(folder: Path) -> None:
    def save() -> None:
        save = committing(folder)
        write(save.__enter__(), a="2")
        os.kill(os.getpid(), signal.SIGKILL)

    killed(save)
    log = replacing(folder / "log")
    killed(log.__enter__)
    assert len(hidden(folder)) == 2
    # Earlier releases had temporary files beside their targets; other programs have such names, too.
    write(folder, **{".a.ab_12345.tmp": "", ".else.abcdefgh.tmp": ""})
    with scratch(folder, "alive") as alive, committing(folder) as save:
        write(save, a="3")
    with replacing(folder / "log"):
        pass
    assert not alive.exists()
    assert hidden(folder) == [".else.abcdefgh.tmp"]


def test_a_live_process_keeps_its_temporary_folder(folder: Path) -> None:
    with replacing(folder / "log") as first:
        write(first.parent, log="first")
        with replacing(folder / "log") as second:
            assert second != first
            write(second.parent, log="second")
        with committing(folder) as save:
            write(save, a="2")
    assert read(folder) == {"a": "2", "b": "1", "log": "first"}
    assert not hidden(folder)


def test_what_is_published_is_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def recorded_fsync(file: int) -> None:
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    def recorded_rename(source: Path, target: Path) -> None:
        calls.append(("rename", str(target)))
        rename(source, target)

    def recorded_replace(source: Path, target: Path) -> None:
        calls.append(("rename", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(os, "replace", recorded_replace)
    with committing(folder) as save:
        write(save, a="2")
        (save / "sub").mkdir()
        write(save / "sub", x="2")
    published = calls.index(("rename", str(folder / COMMIT)))
    expected = {save, save / "a", save / "sub", save / "sub" / "x", save / ".removed"}
    assert {path for _, path in calls[:published]} == set(map(str, expected))
    assert calls[published + 1] == ("fsync", str(folder))
    assert calls[-1] == ("fsync", str(folder)), "the moves, before the commit is removed"

    calls.clear()
    with replacing(folder / "log") as temporary:
        write(temporary.parent, log="1")
    assert calls == [("fsync", str(temporary)), ("rename", str(folder / "log")), ("fsync", str(folder))]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_rights_that_open_gives_and_the_mask_is_not_touched(
    mask: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(mask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", None)
            with replacing(folder / "file") as temporary:
                temporary.unlink()
                os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
            with committing(folder) as save:
                os.close(os.open(save / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(old)
    for name in ("file", "weights"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o666 & ~mask


def test_two_processes_save_one_after_the_other(tmp_path: Path) -> None:
    wholes = [{f"{name}.json": letters[0] for name in letters} for letters in ("abcdefgh", "fghij")]

    def save(whole: dict[str, str]) -> None:
        for _ in range(20):
            with committing(tmp_path, replaces=["?.json"]) as files:
                write(files, **whole)

    save(wholes[0])
    children = [in_child(lambda whole=whole: save(whole)) for whole in wholes]  # type: ignore[misc]
    ended: list[int] = []
    while len(ended) < len(children):
        assert read_whole(tmp_path, lambda: read(tmp_path)) in wholes
        ended += [child for child in children if child not in ended and os.waitpid(child, os.WNOHANG)[0]]
    assert read(tmp_path) in wholes
    assert not hidden(tmp_path)


def test_threads_wait_for_each_other_too(folder: Path) -> None:
    order = []

    def save() -> None:
        with committing(folder) as files:
            order.append("second")
            write(files, a="second")

    with committing(folder) as files:
        thread = threading.Thread(target=save)
        thread.start()
        time.sleep(0.05)
        order.append("first")
        write(files, a="first", b="first")
    thread.join()
    assert order == ["first", "second"]
    assert read(folder) == {"a": "second", "b": "first"}


def test_a_reader_that_meets_a_save_reads_again(folder: Path) -> None:
    write(folder, **{"config.json": "old", "model.safetensors": "old"})
    seen = []

    def read_both() -> tuple[str, str]:
        config = stored(folder, "config.json").read_text(encoding="utf-8")
        if not seen:
            with committing(folder) as save:
                write(save, **{"config.json": "new", "model.safetensors": "new"})
        weights = stored(folder, "model.safetensors").read_text(encoding="utf-8")
        seen.append((config, weights))
        if config != weights:
            raise ValueError("they don't belong together")
        return config, weights

    assert read_whole(folder, read_both) == ("new", "new")
    assert seen == [("old", "new"), ("new", "new")]


def test_a_fault_of_a_folder_that_nobody_changes_is_raised_at_once(folder: Path) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        read_whole(folder, fail)
    assert calls == [1]


def test_a_folder_from_elsewhere_removes_nothing_but_its_own_files(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / COMMIT).mkdir(parents=True)
    write(tmp_path, outside="kept")
    write(folder / COMMIT, **{".removed": f"../outside\n{outside}\n..\n.\n\nown\n"})
    write(folder, own="1")
    finish_commit(folder)
    assert [path.exists() for path in (outside, folder / "own")] == [True, False]


def test_a_link_is_not_a_commit(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").mkdir()
    write(tmp_path / "elsewhere", a="1")
    (tmp_path / "folder" / COMMIT).symlink_to(tmp_path / "elsewhere")
    finish_commit(tmp_path / "folder")
    assert (tmp_path / "elsewhere" / "a").exists()


def test_what_can_not_be_replaced_is_said_before_anything_changes(folder: Path) -> None:
    (folder / "c").mkdir()
    with pytest.raises(FileAccessError, match=r"folder can't be written: .* Expected a file\."):
        with writing(folder), committing(folder) as save:
            write(save, a="2", c="2")
    assert read(folder) == {"a": "1", "b": "1"}
    with (
        pytest.raises(FileAccessError, match=r"a can't be written: File exists"),
        writing(folder / "a"),
        committing(folder / "a"),
    ):
        raise AssertionError("nothing is written")


def test_without_locks_files_are_still_committed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_commits, "fcntl", None)
    with committing(folder) as save:
        write(save, a="2")
    with replacing(folder / "log") as temporary:
        write(temporary.parent, log="1")
    assert read(folder) == {"a": "2", "b": "1", "log": "1"}
    assert not hidden(folder)
