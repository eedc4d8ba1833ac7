"""A small pipeline of real parts, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from chameleon_core import Chameleon
from chameleon_core.demo import make_chameleon

# The same cases on every machine, however slow.
settings.register_profile("chameleon", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("chameleon")
# Models this small lose time to more threads than one.
torch.set_num_threads(1)

RESOLUTION = 8
"""Of the pictures: 16 codes each."""


@pytest.fixture(scope="session")
def chameleon() -> Chameleon:
    return make_chameleon(resolution=RESOLUTION, context_length=256)


@pytest.fixture(scope="session")
def folder(chameleon: Chameleon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    chameleon.save_pretrained(path)
    return path
