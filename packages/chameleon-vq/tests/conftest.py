"""Fixtures that the tests share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from chameleon_vq import ImageTokenizer, plugins
from chameleon_vq._entry_points import FoundEntryPoint
from chameleon_vq.plugins import ENVIRONMENT_VARIABLE
from chameleon_vq.registry import REGISTRY
from chameleon_vq.testing import make_image_tokenizer

# The same examples in every run, whatever the machine's load.
settings.register_profile("chameleon", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("chameleon")

# A process that was started in the background ignores SIGINT; tests of Ctrl-C send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # The models are tiny, so threads would cost more time than they save.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _built_ins_alone() -> Iterator[None]:
    # Independent of what else is installed.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT_VARIABLE, "")
        REGISTRY.reload()
        yield


@pytest.fixture
def tokenizer() -> ImageTokenizer:
    """32×32 pixels, 8×8 codes of 64."""
    return make_image_tokenizer()


@pytest.fixture
def picture() -> PIL.Image.Image:
    """A colourful picture, wider than high, with odd sides."""
    rows, columns = np.mgrid[0:45, 0:71]
    values = np.stack([rows * 5, columns * 3, (rows * columns) % 256], axis=2)
    return PIL.Image.fromarray(values.astype(np.uint8))


@pytest.fixture
def slope() -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
    """The gradient of a scalar function by central differences, element by element."""

    def slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        at, step = at.detach(), 1e-5
        result = torch.empty_like(at)
        for index in np.ndindex(*at.shape):
            moved = torch.zeros_like(at)
            moved[index] = step
            result[index] = (function(at + moved) - function(at - moved)) / (2 * step)
        return result

    return slope


@pytest.fixture
def install_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install functions as the hooks of a plugin, found by an entry point as an installed one is."""

    def install(**hooks: Callable[[], Any]) -> None:
        module = ModuleType("acme_vq")
        for name, hook in hooks.items():
            setattr(module, name, hook)
        monkeypatch.setitem(sys.modules, "acme_vq", module)
        found = FoundEntryPoint("chameleon_vq", "acme", "acme_vq", "acme_vq", "unknown")
        monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
        monkeypatch.setattr(plugins, "entry_points", lambda prefix: [found])
        REGISTRY.reload()

    yield install
    monkeypatch.undo()
    REGISTRY.reload()
