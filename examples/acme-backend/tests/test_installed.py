"""The plugins are found by their entry points, once the package is installed."""

from __future__ import annotations

from typing import Any

import pytest

from chameleon_backends.registry import ATTENTION_BACKENDS_HOOK
from chameleon_backends.registry import REGISTRY as BACKENDS
from chameleon_core.registry import LOGITS_PROCESSORS_HOOK
from chameleon_core.registry import REGISTRY as CORE
from chameleon_text.registry import REGISTRY as TEXT
from chameleon_text.registry import SEGMENT_CODECS_HOOK
from chameleon_vq.registry import REGISTRY as VQ
from chameleon_vq.registry import VECTOR_QUANTIZERS_HOOK


@pytest.mark.parametrize(
    ("registry", "hook", "name"),
    [
        (BACKENDS, ATTENTION_BACKENDS_HOOK, "acme-blockwise"),
        (VQ, VECTOR_QUANTIZERS_HOOK, "acme-ternary"),
        (TEXT, SEGMENT_CODECS_HOOK, "melody"),
        (CORE, LOGITS_PROCESSORS_HOOK, "acme-regex"),
    ],
)
def test_a_plugin_is_found_and_can_run(registry: Any, hook: str, name: str) -> None:
    (found,) = (each for each in registry.registered(hook) if each.distribution == "acme-backend")
    assert found.spec.name == name
    assert found.why_unavailable() is None
