"""Folders, registered names and Hub ids, and uploads: with stubs of the Hub and of chameleon-core."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from chameleon_text import (
    ChameleonProcessor,
    ConfigError,
    MissingFileError,
    MissingPackageError,
    TextTokenizer,
)

KINDS = pytest.mark.parametrize("kind", [ChameleonProcessor, TextTokenizer])
FILES = {
    ChameleonProcessor: ["chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json"],
    TextTokenizer: ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"],
}


@pytest.fixture
def saved(tokenizer: TextTokenizer, tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "small"
    ChameleonProcessor(tokenizer, image_seq_length=9).save_pretrained(folder)
    return folder


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if chameleon-core weren't installed, which it isn't where this package is tested alone."""
    monkeypatch.setattr("chameleon_text._hub.importlib.util.find_spec", lambda name: None)


def both(tokenizer: TextTokenizer) -> tuple[TextTokenizer, ChameleonProcessor]:
    return tokenizer, ChameleonProcessor(tokenizer)


@KINDS
def test_a_folder_is_found_by_its_names_in_transformers(kind: Any, saved: Path) -> None:
    assert isinstance(kind.from_pretrained(pretrained_model_name_or_path=saved), kind)
    assert isinstance(kind.from_pretrained(str(saved.parent), subfolder="small", revision="main"), kind)
    loaded = kind.from_pretrained(
        saved, token=None, cache_dir=None, local_files_only=True, force_download=False, trust_remote_code=True
    )
    assert isinstance(loaded, kind)


@KINDS
def test_a_local_folder_has_no_revisions(kind: Any, saved: Path) -> None:
    with pytest.raises(ConfigError, match="a local folder, which has no revisions"):
        kind.from_pretrained(saved, revision="v2")
    with pytest.raises(MissingFileError, match="has no subfolder 'large'"):
        kind.from_pretrained(saved.parent, subfolder="large")


@KINDS
def test_a_registered_name_is_looked_up_by_core(kind: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed_folder(name: str, tried: list[str]) -> Path | None:
        return saved if name == "small" else None

    core = ModuleType("chameleon_core.checkpoints.resolve")
    core.installed_folder = installed_folder  # type: ignore[attr-defined]
    monkeypatch.setattr("chameleon_text._hub.importlib.util.find_spec", lambda name: object())
    for name in ("chameleon_core", "chameleon_core.checkpoints", core.__name__):
        monkeypatch.setitem(sys.modules, name, core)
    assert isinstance(kind.from_pretrained("small"), kind)
    with pytest.raises(MissingFileError, match=r"can't find the (processor|tokenizer) 'large'"):
        kind.from_pretrained("large")


@KINDS
@pytest.mark.usefixtures("no_core")
def test_a_name_that_nothing_has_says_what_was_tried(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no folder 'small' in .*which chameleon-core would look up; not a Hub"):
        kind.from_pretrained("small")
    with pytest.raises(MissingFileError, match="is a URL"):
        kind.from_pretrained("https://huggingface.co/acme/small")
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(MissingFileError, match="is a file; expected the folder"):
        kind.from_pretrained(tmp_path / "tokenizer.json")


@KINDS
@pytest.mark.usefixtures("no_core")
def test_a_hub_id_is_downloaded(kind: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []

    def snapshot_download(repo_id: str, **arguments: Any) -> str:
        requests.append((repo_id, arguments))
        return str(saved.parent)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    options = {"revision": "v2", "token": "secret", "local_files_only": True, "cache_dir": "elsewhere"}
    kind.from_pretrained("acme/models", subfolder="small", force_download=True, **options)
    repo_id, arguments = requests[0]
    assert repo_id == "acme/models"
    assert arguments.items() >= {**options, "force_download": True}.items()
    assert set(arguments["allow_patterns"]) == {"small/*.json", "small/*.jinja"}
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r'pip install "\./packages/chameleon-text\[hub\]"'):
        kind.from_pretrained("acme/models")


@pytest.mark.usefixtures("no_core")
def test_an_image_tokenizer_needs_the_weights(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    (saved / "model.safetensors.index.json").write_text(
        '{"weight_map": {"lm_head.weight": "1.safetensors", "model.vqmodel.encoder.conv_in.weight": "2.safetensors"}}'
    )

    def snapshot_download(repo_id: str, **arguments: Any) -> str:
        asked.extend(arguments["allow_patterns"])
        return str(saved)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.setattr("chameleon_text.processor.image_tokenizer_of", lambda folder: None)
    ChameleonProcessor.from_pretrained("acme/small", image_tokenizer=True)
    assert [name for name in asked if name.endswith("safetensors")] == ["2.safetensors"]


@pytest.mark.parametrize(
    ("kind", "name", "closest"),
    [
        (ChameleonProcessor, "revison", "revision"),
        (ChameleonProcessor, "templat", "template"),
        (TextTokenizer, "revison", "revision"),
        (TextTokenizer, "model_max_len", "model_max_length"),
        (TextTokenizer, "pad_tokn", "pad_token"),
    ],
)
def test_an_unknown_argument_is_refused_before_anything_is_read(kind: Any, name: str, closest: str) -> None:
    with pytest.raises(ConfigError, match=f"from_pretrained has no argument '{name}'. Did you mean '{closest}'"):
        kind.from_pretrained("acme/models", **{name: "x"})


def test_each_is_uploaded(tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[Any] = []

    class HfApi:
        def create_repo(self, repo_id: str, **arguments: Any) -> Any:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **arguments: Any) -> Any:
            uploads.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return SimpleNamespace(commit_url="the address")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=HfApi))
    for each in both(tokenizer):
        files = FILES[type(each)]
        uploads.clear()
        assert each.push_to_hub("me/model", private=True, commit_message="First") == "the address"
        each.save_pretrained(save_directory=tmp_path / "model", push_to_hub=True, token="secret")
        each.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="me/other")
        each.save_pretrained(tmp_path / "model", push_to_hub=False, legacy_format=False)
        assert uploads == [("me/model", files), ("model", files), ("me/other", files)]


def test_what_can_not_be_saved_is_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    for each in both(tokenizer):
        with pytest.raises(ConfigError, match=r"has no argument 'push_to_hup'\. Did you mean 'push_to_hub'"):
            each.save_pretrained(tmp_path / "model", push_to_hup=True)
        with pytest.raises(ConfigError, match="repo_id belongs to an upload: pass push_to_hub=True"):
            each.save_pretrained(tmp_path / "model", repo_id="me/model")
        with pytest.raises(ConfigError, match="can't have filename_prefix='a': files have the names"):
            each.save_pretrained(tmp_path / "model", filename_prefix="a")
        with pytest.raises(ConfigError, match="needs the folder to write to"):
            each.save_pretrained()
        with pytest.raises(ConfigError, match=r"push_to_hub has no argument 'privat'\. Did you mean 'private'"):
            each.push_to_hub("me/model", privat=True)
    assert not (tmp_path / "model").exists()
