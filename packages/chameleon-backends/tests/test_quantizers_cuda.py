"""The built-in quantizers pass the conformance suite on a CUDA device too, where there is one."""

from __future__ import annotations

import pytest
import torch

from chameleon_backends import why_quantizer_unavailable
from chameleon_backends.testing import WeightQuantizerConformance

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)


class TestInt8(WeightQuantizerConformance):
    quantizer_name = "int8"
    device = "cuda"
    relative_error = 0.01


class TestInt4(WeightQuantizerConformance):
    quantizer_name = "int4"
    device = "cuda"
    relative_error = 0.13


@pytest.mark.skipif(why_quantizer_unavailable("bnb-nf4") is not None, reason="bitsandbytes isn't installed")
class TestNF4(WeightQuantizerConformance):
    quantizer_name = "bnb-nf4"
    device = "cuda"
    options = {"double_quant": False}
    relative_error = 0.13
