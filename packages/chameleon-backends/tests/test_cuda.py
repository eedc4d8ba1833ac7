"""The built-in backends pass the conformance suite on a CUDA device too, where there is one."""

from __future__ import annotations

import pytest
import torch

from chameleon_backends import why_attention_unavailable
from chameleon_backends.testing import AttentionBackendConformance

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)


def needs(name: str) -> pytest.MarkDecorator:
    reason = why_attention_unavailable(name)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


class TestSDPA(AttentionBackendConformance):
    backend_name = "sdpa"
    device = "cuda"


class TestFlash(AttentionBackendConformance):
    backend_name = "flash"
    device = "cuda"


@needs("flash_attention_2")
class TestFlashTwo(AttentionBackendConformance):
    backend_name = "flash_attention_2"
    device = "cuda"


@needs("flash_attention_3")
class TestFlashThree(AttentionBackendConformance):
    backend_name = "flash_attention_3"
    device = "cuda"


class TestFlex(AttentionBackendConformance):
    backend_name = "flex"
    device = "cuda"
    max_examples = 20  # each kind of request compiles a kernel
