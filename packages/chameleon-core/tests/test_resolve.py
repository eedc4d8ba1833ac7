"""From a name to a folder: folders, Hub ids through a stub, and names that are none of these."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, ChameleonModel
from chameleon_core._hub import HubOptions
from chameleon_core.checkpoints import resolve_folder
from chameleon_core.errors import ConfigError, MissingPackageError, ModelNotFoundError
from chameleon_core.testing import make_model


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
    small = ["*.json", "*.jinja", "*vqgan.yaml"]
    weights = ["model.safetensors", "*consolidated*.pth", "*vqgan.ckpt", "*extra_weights.safetensors"]
    assert hub == [("facebook/chameleon-7b", small), ("facebook/chameleon-7b", [*small, *weights])]


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
META = ("params.json", "consolidate_params.json", "consolidated.00.pth", "vqgan.yaml", "vqgan.ckpt")
IN_MODELS = ("models/7b/params.json", "models/7b/consolidated.pth", "tokenizer/text_tokenizer.json")
REPOSITORIES = {
    "shards and Meta's": (
        ("config.json", "model.safetensors.index.json", *SHARDS, *META),
        {"config.json", "model.safetensors.index.json", *SHARDS, *META} - {"consolidated.00.pth", "vqgan.ckpt"},
    ),
    "one file and a pickle": (
        ("config.json", "model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"),
        {"config.json", "model.safetensors"},
    ),
    "one file and shards": (
        ("config.json", "model.safetensors", "model.safetensors.index.json", *SHARDS),
        {"config.json", "model.safetensors.index.json", *SHARDS},
    ),
    "consolidated safetensors": (
        ("config.json", "model.safetensors", "consolidated.safetensors"),
        {"config.json", "model.safetensors"},
    ),
    "pickles alone": (("config.json", "pytorch_model.bin"), {"config.json"}),
    "Meta's": (META, set(META)),
    "Meta's root": ((*IN_MODELS, "tokenizer/vqgan.ckpt", "x.bin"), {*IN_MODELS, "tokenizer/vqgan.ckpt"}),
    "a tokenizer and weights": (("tokenizer.json", "model.safetensors"), {"tokenizer.json", "model.safetensors"}),
}


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A stub of huggingface_hub whose ``snapshot_download`` puts the files that match into a cache; returns calls."""
    calls: list[dict[str, Any]] = []
    files: dict[str, str] = {}

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **arguments: Any) -> str:
        calls.append(arguments)
        cache = tmp_path / "cache"
        for name, content in files.items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                (cache / name).write_text(content)
        return str(cache)

    stub = types.ModuleType("huggingface_hub")
    stub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    return calls, files


@pytest.mark.parametrize("inside", ["", "deep/model"])
@pytest.mark.parametrize("name", REPOSITORIES)
def test_weights_are_fetched_once_in_the_layout_that_is_read(
    name: str, inside: str, repository: Any, tmp_path: Path
) -> None:
    _, files = repository
    there, expected = REPOSITORIES[name]
    index = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}})
    prefix = f"{inside}/" if inside else ""
    files.update({prefix + each: index if each.endswith("index.json") else "{}" for each in there})
    folder = resolve_folder("acme/model", HubOptions(subfolder=inside))
    assert folder == tmp_path / "cache" / inside
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == expected


HUB = {"revision": "refs/pr/1", "cache_dir": "elsewhere", "token": "secret", "local_files_only": True}


@pytest.mark.parametrize(
    "kind",
    [ChameleonForConditionalGeneration, ChameleonModel, ChameleonConfig],
    ids=lambda each: each.__name__,
)
def test_the_arguments_of_the_hub_reach_its_client(kind: Any, repository: Any, tmp_path: Path) -> None:
    calls, files = repository
    make_model().save_pretrained(tmp_path / "saved")
    cache = tmp_path / "cache" / "deep"
    shutil.copytree(tmp_path / "saved", cache)
    files["deep/config.json"] = (cache / "config.json").read_text()
    kind.from_pretrained("acme/model", subfolder="deep", **HUB)
    assert calls
    assert all(call == HUB for call in calls)
    for name in HUB:
        with pytest.raises(ConfigError, match=f"^{name} must be "):
            kind.from_pretrained("acme/model", **{name: 3.5})


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
