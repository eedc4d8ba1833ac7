"""Loading and saving with the arguments of ``transformers``: by folder, name and Hub id, translated or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chameleon_vq import (
    ChameleonImageProcessor,
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    ConfigError,
    ImageTokenizer,
    MissingFileError,
    MissingPackageError,
)
from chameleon_vq.registry import find_pretrained
from chameleon_vq.testing import make_image_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    make_image_tokenizer().save_pretrained(path / "part")
    return path


def test_the_network_is_loaded_and_saved_alone(saved: Path, tmp_path: Path) -> None:
    network = ChameleonVQVAE.from_pretrained(saved, subfolder="part", torch_dtype="bfloat16", device_map={"": "cpu"})
    assert network.quant_conv.weight.dtype is torch.bfloat16
    assert not network.training
    stored = ChameleonVQVAE.from_pretrained(saved / "part", low_cpu_mem_usage=True, dropout=0.25)
    assert (stored.quant_conv.weight.dtype, stored.config.dropout) == (torch.float32, 0.25)
    stored.save_pretrained(tmp_path, safe_serialization=True, is_main_process=True)
    again = ChameleonVQVAE.from_pretrained(pretrained_model_name_or_path=tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in stored.state_dict().items())
    other = ChameleonVQVAE.from_pretrained(saved / "part", config=stored.config.replace(dropout=0.5))
    assert other.config.dropout == 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"revision": "v2"}, "has no revisions"),
        ({"quantization_config": {}}, "isn't quantized"),
        ({"use_safetensors": False}, "pickles aren't read"),
        ({"low_cpu_mem_usage": False}, "never held twice"),
        ({"device_map": {"encoder": "cpu", "decoder": "cuda"}}, "on one device"),
        ({"torch_dtype": "bfloat"}, "expected a dtype of torch"),
        ({"torch_dtyp": "bfloat16"}, "Did you mean 'torch_dtype'"),
        ({"proxies": {"https": "x"}}, "set HTTPS_PROXY"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_isnt_available_is_refused(saved: Path, arguments: dict[str, Any], said: str) -> None:
    for kind in (ChameleonVQVAE, ImageTokenizer):
        with pytest.raises(ConfigError, match=said):
            kind.from_pretrained(saved / "part", **arguments)


def test_saving_refuses_pickles_and_unknown_arguments(tmp_path: Path) -> None:
    tokenizer = make_image_tokenizer()
    for each in (tokenizer, tokenizer.model, tokenizer.image_processor):
        with pytest.raises(ConfigError, match="safe_serialization=False: pickles aren't read or written"):
            each.save_pretrained(tmp_path, safe_serialization=False)
        with pytest.raises(ConfigError, match="no argument 'foo'"):
            each.save_pretrained(tmp_path, foo=1)
        with pytest.raises(ConfigError, match="needs the folder"):
            each.save_pretrained()
        each.save_pretrained(save_directory=tmp_path / "not", is_main_process=False)
        assert not (tmp_path / "not").exists()


def test_the_image_processor_takes_fields_and_a_subfolder(saved: Path) -> None:
    stored = ChameleonImageProcessor.from_pretrained(saved / "part")
    found = ChameleonImageProcessor.from_pretrained(saved, subfolder="part", do_resize=False, use_fast=False)
    assert found == stored.replace(do_resize=False)
    with pytest.raises(ConfigError, match="there is one image processor"):
        ChameleonImageProcessor.from_pretrained(saved / "part", use_fast=True)
    with pytest.raises(ConfigError, match="Did you mean 'do_resize'"):
        ChameleonImageProcessor.from_pretrained(saved / "part", do_resiz=False)


@pytest.mark.parametrize("kind", [ChameleonVQVAE, ImageTokenizer, ChameleonImageProcessor, ChameleonVQVAEConfig])
def test_a_url_is_named_as_it_was_given(kind: Any) -> None:
    with pytest.raises(MissingFileError, match=r"https://huggingface\.co/a/b is a URL; expected a folder"):
        kind.from_pretrained("https://huggingface.co/a/b")


@pytest.mark.parametrize("kind", [ChameleonVQVAE, ImageTokenizer, ChameleonImageProcessor, ChameleonVQVAEConfig])
def test_a_hub_id_is_downloaded(saved: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(repo_id: str, **arguments: Any) -> str:
        asked.append((repo_id, arguments))
        return str(saved)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    options = {"revision": "v2", "token": "secret", "local_files_only": True, "cache_dir": "elsewhere"}
    kind.from_pretrained("acme/vq", subfolder="part", **options)
    assert asked[0][0] == "acme/vq"
    assert all(arguments.items() >= options.items() for _, arguments in asked)
    assert "part/*.json" in asked[0][1]["allow_patterns"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r'pip install "\./packages/chameleon-vq\[hub\]"'):
        kind.from_pretrained("acme/vq")


@pytest.mark.parametrize(
    ("weight_map", "fetched"),
    [
        (None, {"model.safetensors"}),
        (
            {"lm_head.weight": "1.safetensors", "model.vqmodel.quantize.embedding.weight": "2.safetensors"},
            {"2.safetensors"},
        ),
        (
            {"encoder.conv_in.weight": "1.safetensors", "quantize.embedding.weight": "2.safetensors"},
            {"1.safetensors", "2.safetensors"},
        ),
        ([], {"model.safetensors"}),
    ],
)
def test_of_a_model_on_the_hub_only_the_files_with_the_image_tokenizer_are_fetched(
    weight_map: Any, fetched: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    if weight_map is not None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert find_pretrained("acme/model") == tmp_path
    assert {name for names in asked for name in names if name.endswith("safetensors")} == fetched


def test_each_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[Any] = []

    class HfApi:
        def create_repo(self, repo_id: str, **arguments: Any) -> Any:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **arguments: Any) -> Any:
            uploads.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return SimpleNamespace(commit_url="the address")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=HfApi))
    tokenizer = make_image_tokenizer()
    tokenizer.save_pretrained(tmp_path / "vq", push_to_hub=True, token="secret")
    assert tokenizer.model.push_to_hub("me/network") == "the address"
    assert tokenizer.image_processor.push_to_hub("me/pixels") == "the address"
    weights = ["config.json", "model.safetensors"]
    assert uploads == [
        ("vq", [*weights, "preprocessor_config.json"]),
        ("me/network", weights),
        ("me/pixels", ["preprocessor_config.json"]),
    ]
