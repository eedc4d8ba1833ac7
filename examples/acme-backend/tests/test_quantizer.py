"""The vector quantizer: the toolkit's conformance suite, and its codes by hand."""

from __future__ import annotations

import pytest
import torch

from acme_backend.ternary import TernaryQuantizer
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ConfigError
from chameleon_vq.testing import VectorQuantizerConformance


class TestTernary(VectorQuantizerConformance):
    """Codes to latents and back, gradients, saved state, a model around it."""

    name = "acme-ternary"
    config_fields = {"embed_dim": 4, "num_embeddings": 81}


def test_a_code_is_the_number_of_its_digits() -> None:
    latents_BDhw = torch.tensor([-7.0, 0.4, 0.6]).view(1, 3, 1, 1)
    quantized = TernaryQuantizer(3)(latents_BDhw)
    assert quantized.latents.flatten().tolist() == [-1, 0, 1]
    assert quantized.codes.item() == 0 * 1 + 1 * 3 + 2 * 9


def test_a_configuration_with_another_number_of_codes_is_refused() -> None:
    config = ChameleonVQVAEConfig(quantizer="acme-ternary", embed_dim=4, num_embeddings=80)
    with pytest.raises(ConfigError, match="embed_dim 4 makes 81 codes: num_embeddings is 80"):
        ChameleonVQVAE(config)
