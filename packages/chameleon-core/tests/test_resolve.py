"""From a name to a folder: folders, Hub ids through a stub, and names that are none of these."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from chameleon_core.checkpoints import resolve_folder
from chameleon_core.errors import MissingPackageError, ModelNotFoundError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A stub of huggingface_hub; returns the calls."""
    asked: list[Any] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        if repo_id == "facebook/closed":
            raise OSError("403: access to facebook/closed is restricted")
        (tmp_path / "cache").mkdir(exist_ok=True)
        return str(tmp_path / "cache")

    stub = types.ModuleType("huggingface_hub")
    stub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    return asked


def test_a_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert resolve_folder("model") == Path("model")
    assert resolve_folder(tmp_path / "model") == tmp_path / "model"


def test_a_local_folder_goes_before_a_hub_id(tmp_path: Path, hub: list[Any]) -> None:
    (tmp_path / "facebook" / "chameleon-7b").mkdir(parents=True)
    assert resolve_folder("facebook/chameleon-7b") == Path("facebook/chameleon-7b")
    assert hub == []


def test_of_a_hub_id_only_the_pickles_of_metas_layout_are_fetched(tmp_path: Path, hub: list[Any]) -> None:
    assert resolve_folder("facebook/chameleon-7b") == tmp_path / "cache"
    safe = ["*.json", "*.safetensors", "*.jinja"]
    assert hub == [("facebook/chameleon-7b", [*safe, "*consolidated*.pth", "*vqgan.yaml", "*vqgan.ckpt"])]


def test_a_hub_id_that_cannot_be_fetched_says_why(hub: list[Any]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no folder 'facebook/closed'.*from the Hub: 403: access"):
        resolve_folder("facebook/closed")


def test_a_hub_id_without_the_extra_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r'pip install .*"\./packages/chameleon-core\[hub\]"'):
        resolve_folder("facebook/chameleon-7b")


@pytest.mark.parametrize("name", ["chameleon", "./facebook/chameleon", "a/b/c", os.sep + "no-such-folder"])
def test_an_unknown_name_lists_what_was_tried(name: str, hub: list[Any]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no folder .*no pretrained model named .*not a Hub id"):
        resolve_folder(name)
    assert hub == []


def test_the_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(ModelNotFoundError, match="the name of the model is empty"):
        resolve_folder("")


def test_a_path_is_never_taken_for_a_hub_id(hub: list[Any]) -> None:
    with pytest.raises(ModelNotFoundError, match="no folder 'facebook/chameleon-7b'"):
        resolve_folder(Path("facebook/chameleon-7b"))
    assert hub == []


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors is a file; expected a folder"):
        resolve_folder("model.safetensors")
