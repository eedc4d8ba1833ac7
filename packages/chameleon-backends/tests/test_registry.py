"""Backends by name."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator

import pytest
import torch

import chameleon_backends
from chameleon_backends import (
    DEFAULT_ATTENTION_BACKEND,
    REGISTRY,
    AttentionBackend,
    AttentionBackendSpec,
    UnknownPluginError,
    UnsupportedAttentionError,
    attention_backend_names,
    get_attention_backend,
    get_weight_quantizer,
    why_attention_unavailable,
)
from chameleon_backends.backends.eager import EagerAttention
from chameleon_backends.backends.sdpa import SDPAAttention
from chameleon_backends.plugins import ENVIRONMENT_VARIABLE


@pytest.fixture(autouse=True)
def only_builtins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look up the built-ins only, whatever else is installed."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    REGISTRY.reload()
    yield
    REGISTRY.reload()


def test_the_builtins_are_registered_and_sdpa_is_the_default() -> None:
    assert attention_backend_names() == ("eager", "sdpa", "flash", "flash_attention_2", "flash_attention_3", "flex")
    assert DEFAULT_ATTENTION_BACKEND == "sdpa"
    assert isinstance(get_attention_backend(), SDPAAttention)
    assert isinstance(get_attention_backend("eager"), EagerAttention)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_builtins_keep_the_protocol_and_run_everywhere(name: str) -> None:
    assert isinstance(get_attention_backend(name), AttentionBackend)
    assert why_attention_unavailable(name) is None


def test_an_unknown_name_is_an_error_with_the_closest() -> None:
    with pytest.raises(UnknownPluginError, match=r"no attention backend named 'egar'.*Did you mean 'eager'\?"):
        get_attention_backend("egar")


def test_a_backend_that_can_not_run_here_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class GPUBackends:
        @chameleon_backends.hookimpl
        def chameleon_attention_backends(self) -> list[AttentionBackendSpec]:
            return [
                AttentionBackendSpec(
                    name="gpu",
                    factory=SDPAAttention,
                    api_version=chameleon_backends.HOOK_API_VERSION,
                    unavailable=lambda: "there is no GPU in this machine",
                )
            ]

    monkeypatch.setattr(REGISTRY, "_builtins", (GPUBackends(),))
    REGISTRY.reload()
    assert attention_backend_names() == ("gpu",)
    assert why_attention_unavailable("gpu") == "there is no GPU in this machine"
    with pytest.raises(UnsupportedAttentionError, match="'gpu' can't run here: there is no GPU in this machine"):
        get_attention_backend("gpu")


def test_every_public_name_is_exported_and_documented() -> None:
    for name in chameleon_backends.__all__:
        public = getattr(chameleon_backends, name)
        assert not callable(public) or public.__doc__, f"{name} has no docstring"


def test_the_version_is_that_of_the_distribution() -> None:
    assert chameleon_backends.__version__ == importlib.metadata.version("chameleon-backends")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("chameleon_backends.weights", "chameleon_backends.weight_quantizer"),
        ("chameleon_backends.quantizers.plain", "chameleon_backends.plain_weight"),
        ("chameleon_backends.testing.laws", "chameleon_backends.testing.strategies"),
    ],
)
def test_a_module_that_moved_is_found_by_its_old_name(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is {new} now"):
        moved = importlib.import_module(old)
    for name in ("WeightQuantizer", "PlainWeight", "LAWS"):
        assert getattr(moved, name, None) is getattr(importlib.import_module(new), name, None)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("chameleon_backends", "WeightsBackend", "attention.AttentionWeightsBackend"),
        ("chameleon_backends.attention", "WeightsBackend", "attention.AttentionWeightsBackend"),
        ("chameleon_backends.weight_quantizer", "METHOD", "weight_quantizer.QUANT_METHOD"),
        ("chameleon_backends.weight_quantizer", "LEFT_OUT", "weight_quantizer.MODULES_TO_NOT_CONVERT"),
        ("chameleon_backends.registry", "ATTENTION_HOOK", "registry.ATTENTION_BACKENDS_HOOK"),
        ("chameleon_backends.registry", "QUANTIZERS_HOOK", "registry.WEIGHT_QUANTIZERS_HOOK"),
        ("chameleon_backends.quantizers.bnb", "LEFT_OUT", "quantizers.bnb.SKIP_MODULES"),
        ("chameleon_backends.quantizers.bnb", "NF4Quantizer", "quantizers.bnb_nf4.NF4Quantizer"),
        ("chameleon_backends.quantizers.bnb", "LLMInt8Quantizer", "quantizers.bnb_int8.LLMInt8Quantizer"),
    ],
)
def test_a_name_that_moved_is_found_by_its_old_name(module: str, old: str, new: str) -> None:
    now, _, name = f"chameleon_backends.{new}".rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is {now}.{name} now"):
        moved = getattr(importlib.import_module(module), old)
    assert moved is getattr(importlib.import_module(now), name)


def test_the_old_name_of_the_weights_of_eager_works_with_a_warning() -> None:
    backend, tensor_BTHD = get_attention_backend("eager"), torch.ones(1, 2, 1, 4)
    assert isinstance(backend, EagerAttention)
    visible_BTS = torch.ones(1, 2, 2, dtype=torch.bool)
    with pytest.warns(DeprecationWarning, match="attention_weights now"):
        weights_BHTS = backend.weights(tensor_BTHD, tensor_BTHD, visible_BTS, scale=1.0)
    assert torch.equal(weights_BHTS, torch.full((1, 1, 2, 2), 0.5))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("eager", "EagerAttention()"),
        ("sdpa", "SDPAAttention()"),
        ("flash", "FlashAttention(TorchFlashAttention())"),
        ("flex", "FlexAttention()"),
    ],
)
def test_a_backend_prints_as_what_it_is(name: str, shown: str) -> None:
    assert repr(get_attention_backend(name)) == shown


def test_specs_and_quantizers_print_in_a_line() -> None:
    spec = REGISTRY.get("chameleon_attention_backends", "sdpa")
    assert repr(spec) == "AttentionBackendSpec('sdpa': torch's scaled_dot_product_attention; the default)"
    assert repr(get_weight_quantizer("int4")) == "Int4Quantizer(group_size=128)"
    assert repr(REGISTRY).startswith("PluginRegistry('chameleon_backends', hooks: chameleon_attention_backends, ")


def test_help_begins_with_what_people_come_for() -> None:
    assert "get_attention_backend(" in (chameleon_backends.__doc__ or "").split("- ")[1]


def test_why_unsupported_of_bitsandbytes_still_works() -> None:
    bnb = importlib.import_module("chameleon_backends.quantizers.bnb")
    with pytest.warns(DeprecationWarning, match="use why_missing and why_dtype_unsupported"):
        assert bnb.why_unsupported(None) == bnb.why_missing()
