"""Fixtures that several test modules share."""

from __future__ import annotations

import pytest


@pytest.fixture
def untraced_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run flex attention with torch's debugging switch: without it each kind of request is traced for half a second."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
