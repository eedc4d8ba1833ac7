"""Backends by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
    why_attention_unavailable,
)
from chameleon_backends.backends.eager import EagerAttention
from chameleon_backends.backends.sdpa import SDPAAttention
from chameleon_backends.plugins import ENVIRONMENT_VARIABLE


@pytest.fixture(autouse=True)
def only_builtins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever else is installed here."""
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
