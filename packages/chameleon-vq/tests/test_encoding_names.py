"""An encoding is read by the names of ``transformers`` too."""

from __future__ import annotations

import pytest
import torch

from chameleon_vq import ChameleonVQVAE, ConfigError
from chameleon_vq.testing import make_image_tokenizer


@pytest.fixture(scope="module")
def model() -> ChameleonVQVAE:
    return make_image_tokenizer().model.eval()


@pytest.fixture
def pixels(model: ChameleonVQVAE) -> torch.Tensor:
    side = model.config.resolution
    return torch.rand(2, model.config.in_channels, side, side) * 2 - 1


@torch.no_grad()
def test_names_keys_and_indices_are_the_same_tensors(model: ChameleonVQVAE, pixels: torch.Tensor) -> None:
    encoding = model.encode(pixels)
    assert torch.equal(encoding.image_tokens, encoding.codes_Bhw.flatten())
    assert encoding.last_hidden_state is encoding["last_hidden_state"] is encoding[0] is encoding.hidden_BDhw
    assert encoding.embedding_loss is encoding.loss
    assert dict(**encoding).keys() == set(encoding.keys()) == set(encoding)
    assert [each.shape for each in model.encode(pixels, return_dict=False)] == [each.shape for each in encoding[:]]


def test_what_an_encoding_does_not_hold_is_refused(model: ChameleonVQVAE, pixels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="holds no states of single layers"):
        model.encode(pixels, output_hidden_states=True)
    with pytest.raises(ConfigError, match="no argument 'return_dit'"):
        model.encode(pixels, return_dit=False)
    with pytest.raises(KeyError, match="image_tokens"):
        model.encode(pixels)["codes"]
