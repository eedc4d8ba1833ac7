"""Old names of what moved, in a package made for the test."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from chameleon_backends._moved import moved_modules, moved_names

IS_NOW = "the old name works until the next release"
SOURCES = {
    "__init__.py": "",
    "new.py": '"""New."""\n__all__ = ["Thing"]\nclass Thing: ...\n_private = 1\n',
    "plain.py": "import os\ndef thing(): ...\n",
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package ``acme_moved``, two of whose modules had other names."""
    folder = tmp_path / "acme_moved"
    folder.mkdir()
    for name, source in SOURCES.items():
        (folder / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    moved_modules({"acme_moved.old": "acme_moved.new", "acme_moved.old.deeper": "acme_moved.plain"})
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_moved"]:
        del sys.modules[name]


def test_an_old_module_is_imported_with_a_warning_that_says_the_new_name() -> None:
    with pytest.warns(
        DeprecationWarning, match=r"^acme_moved\.old is acme_moved\.new now; .* next release\.$"
    ) as caught:
        importlib.import_module("acme_moved.old")
    (warned,) = caught
    assert "importlib" not in warned.filename or warned.filename.endswith("importlib/__init__.py")


def test_the_warning_points_at_the_import_statement() -> None:
    with pytest.warns(DeprecationWarning, match=IS_NOW) as caught:
        import acme_moved.old  # noqa: F401
    assert caught[0].filename == __file__


def test_what_an_old_module_gives_is_the_new_one_s() -> None:
    with pytest.warns(DeprecationWarning, match=IS_NOW):
        from acme_moved.old import Thing, _private
    from acme_moved.new import Thing as Now

    assert Thing is Now
    assert _private == 1
    old = sys.modules["acme_moved.old"]
    assert old.__name__ == "acme_moved.old"
    assert old.__doc__ == "New."
    assert "Thing" in dir(old)
    with pytest.raises(AttributeError, match=r"'acme_moved\.new' has no attribute 'nothing'"):
        old.nothing  # noqa: B018


@pytest.mark.parametrize(("old", "names"), [("old", {"Thing"}), ("old.deeper", {"thing", "os"})])
def test_an_asterisk_gives_what_it_gives_of_the_new_module(old: str, names: set[str]) -> None:
    found: dict[str, object] = {}
    with pytest.warns(DeprecationWarning, match=IS_NOW):
        exec(f"from acme_moved.{old} import *", found)
    assert {name for name in found if not name.startswith("__")} == names


def test_an_old_module_is_imported_once() -> None:
    with pytest.warns(DeprecationWarning, match=IS_NOW):
        first = importlib.import_module("acme_moved.old")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert importlib.import_module("acme_moved.old") is first


def test_a_submodule_of_an_old_name_may_be_an_old_name() -> None:
    with pytest.warns(DeprecationWarning, match=IS_NOW) as caught:
        deeper = importlib.import_module("acme_moved.old.deeper")
    assert [str(warned.message).partition(" ")[0] for warned in caught] == ["acme_moved.old", "acme_moved.old.deeper"]
    assert deeper.thing is importlib.import_module("acme_moved.plain").thing


def test_threads_that_import_an_old_module_together_get_the_same() -> None:
    found: list[object] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [
            threading.Thread(target=lambda: found.append(importlib.import_module("acme_moved.old"))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [sys.modules["acme_moved.old"]] * 8


def test_moving_the_same_modules_twice_adds_one_finder() -> None:
    before = len(sys.meta_path)
    moved_modules({"acme_moved.old": "acme_moved.new", "acme_moved.old.deeper": "acme_moved.plain"})
    assert len(sys.meta_path) == before


def test_a_folder_that_was_left_behind_does_not_hide_what_moved(tmp_path: Path) -> None:
    (tmp_path / "acme_moved" / "old" / "__pycache__").mkdir(parents=True)
    with pytest.warns(DeprecationWarning, match=IS_NOW):
        assert importlib.import_module("acme_moved.old").Thing


def test_other_names_are_not_found_here() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"acme_moved\.older"):
        importlib.import_module("acme_moved.older")


def test_an_old_name_in_a_module_gives_what_it_is_now() -> None:
    getattr_ = moved_names("acme", {"OldThing": "acme_moved.new:Thing", "old": "acme_moved.new"})
    with pytest.warns(DeprecationWarning, match=r"^acme\.OldThing is acme_moved\.new\.Thing now") as caught:
        assert getattr_("OldThing") is importlib.import_module("acme_moved.new").Thing
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"^acme\.old is acme_moved\.new now"):
        assert getattr_("old") is importlib.import_module("acme_moved.new")
    with pytest.raises(AttributeError, match=r"^module 'acme' has no attribute 'other'$"):
        getattr_("other")
