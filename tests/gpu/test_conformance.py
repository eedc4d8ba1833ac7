"""The built-in caches and logits processors of core pass their conformance suites on a GPU."""

from __future__ import annotations

import torch
from tests.gpu.conftest import DEVICE

from chameleon_core.testing import LaneCacheConformance, LogitsProcessorConformance


class TestDynamic(LaneCacheConformance):
    cache_name = "dynamic"
    device = DEVICE


class TestDynamicInHalfPrecision(LaneCacheConformance):
    cache_name = "dynamic"
    device = DEVICE
    dtype = torch.bfloat16


class TestInt8(LaneCacheConformance):
    # Half a scale, as on a CPU: the largest of so many normal numbers is below 5, and 5 / 127 / 2 is 0.02.
    cache_name = "int8"
    device = DEVICE
    tolerance = 0.021


class TestTemperature(LogitsProcessorConformance):
    processor_name = "temperature"
    device = DEVICE
    options = {"temperature": 0.7}


class TestTopK(LogitsProcessorConformance):
    processor_name = "top-k"
    device = DEVICE
    options = {"k": 5}


class TestTopP(LogitsProcessorConformance):
    processor_name = "top-p"
    device = DEVICE
    options = {"p": 0.6}


class TestRepetitionPenalty(LogitsProcessorConformance):
    processor_name = "repetition-penalty"
    device = DEVICE
    options = {"penalty": 1.5}
    by_id = True


class TestNoRepeatNgrams(LogitsProcessorConformance):
    processor_name = "no-repeat-ngrams"
    device = DEVICE
    options = {"size": 2}
    by_id = True
