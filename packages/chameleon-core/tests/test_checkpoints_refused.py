"""A model that wouldn't load again isn't saved: the error names its tensors and says what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from chameleon_core import ChameleonForConditionalGeneration, Quantization, quantize_model
from chameleon_core.checkpoints import save_checkpoint
from chameleon_core.errors import FileAccessError, WeightsError
from chameleon_core.testing import make_model


def with_head(make: Callable[[nn.Linear], nn.Module]) -> ChameleonForConditionalGeneration:
    model = make_model()
    model.set_submodule("lm_head", make(model.lm_head))
    return model


def with_adapters() -> ChameleonForConditionalGeneration:
    pytest.importorskip("peft")
    from chameleon_core.training import add_lora

    model = make_model()
    add_lora(model)
    return model


def with_adapters_on_codes() -> ChameleonForConditionalGeneration:
    pytest.importorskip("peft")
    from chameleon_core.training import add_lora

    model = make_model()
    quantize_model(model, Quantization("int8"))
    add_lora(model)
    return model


def integers(head: nn.Linear) -> nn.Linear:
    head.weight = nn.Parameter(head.weight.detach().int(), requires_grad=False)
    return head


def without_a_layer() -> ChameleonForConditionalGeneration:
    model = make_model()
    del model.model.layers[0]
    return model


CASES: dict[str, tuple[Callable[[], ChameleonForConditionalGeneration], str]] = {
    "adapters": (with_adapters, r"merge_and_unload\(\).*q_proj\.weight"),
    "adapters on quantized layers": (with_adapters_on_codes, r"merge_and_unload\(\).*q_proj"),
    "torch.compile": (lambda: with_head(lambda head: torch.compile(head)), r"_orig_mod.*lm_head\.weight"),  # type: ignore[arg-type, return-value]
    "DataParallel": (lambda: with_head(nn.DataParallel), r"their module.*lm_head\.module\.weight"),
    "parametrizations": (
        lambda: with_head(nn.utils.parametrizations.weight_norm), r"remove_parametrizations.*original0",
    ),
    "another size": (
        lambda: with_head(lambda head: nn.Linear(head.in_features, 7, bias=False)),
        r"sizes of its config.*lm_head\.weight \(stored \[7, 32\], the config says \[64, 32\]\)",
    ),
    "another type": (lambda: with_head(integers), r"lm_head\.weight \(stored torch\.int32, expected floats\)"),
    "a bias": (lambda: with_head(lambda head: nn.Linear(head.in_features, head.out_features)), r"lm_head\.bias"),
    "a layer less": (without_a_layer, r"Missing: model\.layers\.1"),
}  # fmt: skip


# What torch.compile imports uses what torch itself deprecates.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_what_would_not_load_is_not_saved(case: str, tmp_path: Path) -> None:
    make, message = CASES[case]
    make_model().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(WeightsError, match=f"can't be saved like this.*{message}"):
        make().save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(WeightsError):
        make().save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_wrapped_layers_of_an_image_tokenizer_are_refused_too(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(WeightsError, match=r"_orig_mod.*model\.vqmodel\._orig_mod\.quant_conv\.bias"):
        save_checkpoint(
            model,
            tmp_path,
            config=model.config,
            image_weights={"_orig_mod.quant_conv.bias": torch.zeros(1)},
            build=ChameleonForConditionalGeneration,
        )


def test_merged_adapters_and_a_resized_vocabulary_are_saved(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from chameleon_core.training import add_lora

    model = make_model()
    add_lora(model).merge_and_unload()
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path)
    loaded = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_can_not_be_written_is_an_error_of_this_package(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    model = make_model()
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", refuse)
    for save in (
        lambda: model.save_pretrained(tmp_path),
        lambda: model.config.save_pretrained(tmp_path),
    ):
        with pytest.raises(FileAccessError, match=rf"{tmp_path}.* can't be written: {os.strerror(number)}\. \w"):
            save()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FileAccessError, match=r"file can't be written: File exists"):
        make_model().save_pretrained(tmp_path / "file")
