"""The tests that every vector quantizer passes. Inherit the class, say which quantizer, run pytest.

Shapes: B pictures, D width of a latent, h w latent grid, N codes of the quantizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from ..config import ChameleonVQVAEConfig
from ..hookspecs import HOOK_API_VERSION
from ..model import ChameleonVQVAE
from ..quantizers import VectorQuantizer, make_quantizer
from ..registry import QUANTIZERS, REGISTRY
from .strategies import code_grids

LAW = settings(max_examples=25, deadline=None, derandomize=True)


class VectorQuantizerConformance:
    """The contract of ``VectorQuantizer``, as tests.

    A subclass names the quantizer, as it is registered through the hook, and where needed a configuration for it::

        class TestAcme(VectorQuantizerConformance):
            name = "acme"
            config_fields = {"embed_dim": 4, "quantizer_options": {"levels": [8, 8, 8, 8]}}

    A test that doesn't apply is named in ``not_applicable`` with the reason, and then skipped with it; replacing or
    deleting one is an error.
    """

    name: ClassVar[str]
    config_fields: ClassVar[Mapping[str, Any]] = {}
    not_applicable: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suite = VectorQuantizerConformance
        tests = {name for name in vars(suite) if name.startswith("test_")}
        replaced = sorted(name for name in tests if getattr(cls, name) is not getattr(suite, name))
        unknown = sorted(set(cls.not_applicable) - tests)
        if replaced or unknown:
            raise TypeError(
                f"{cls.__name__} replaces {replaced} and excludes the unknown {unknown}: a standard test is left out "
                "by naming it in not_applicable with the reason."
            )

    @pytest.fixture(autouse=True)
    def _leave_out(self, request: pytest.FixtureRequest) -> None:
        reason = self.not_applicable.get(request.node.originalname)
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture
    def config(self) -> ChameleonVQVAEConfig:
        small = {
            "embed_dim": 6,
            "num_embeddings": 32,
            "latent_channels": 8,
            "resolution": 16,
            "base_channels": 32,
            "channel_multiplier": (1, 1),
            "num_res_blocks": 1,
        }
        return ChameleonVQVAEConfig(**{**small, "quantizer": self.name, **self.config_fields})

    @pytest.fixture
    def quantizer(self, config: ChameleonVQVAEConfig) -> VectorQuantizer:
        torch.manual_seed(0)
        quantizer = make_quantizer(config)
        quantizer.eval()  # type: ignore[attr-defined]
        return quantizer

    @pytest.fixture
    def latents_BDhw(self, config: ChameleonVQVAEConfig) -> Tensor:
        return torch.randn(3, config.embed_dim, 5, 4, generator=torch.Generator().manual_seed(1))

    def test_the_spec_states_this_version_of_the_hooks(self) -> None:
        assert REGISTRY.get(QUANTIZERS, self.name).api_version == HOOK_API_VERSION

    def test_unsupported_gives_a_sentence_or_nothing(self, config: ChameleonVQVAEConfig) -> None:
        unsupported = REGISTRY.get(QUANTIZERS, self.name).unsupported
        assert unsupported(None) is None, "the suite runs where the quantizer can"
        assert unsupported(config) is None, "the suite's config_fields must be ones that the quantizer serves"
        reason = unsupported(config.replace(quantizer_options={"no such option": 1}))
        assert reason is None or (isinstance(reason, str) and reason.strip())

    def test_it_is_a_layer_that_says_how_many_codes_it_has(self, quantizer: VectorQuantizer) -> None:
        assert isinstance(quantizer, nn.Module)
        assert quantizer.num_codes >= 2
        assert quantizer.codes_per_position >= 1

    def test_shapes_and_dtypes(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        quantized = quantizer(latents_BDhw)
        batch, _, height, width = latents_BDhw.shape
        grid = (batch, height, width)
        several = quantizer.codes_per_position
        assert quantized.latents.shape == latents_BDhw.shape
        assert quantized.latents.dtype == latents_BDhw.dtype
        assert quantized.codes.shape == (grid if several == 1 else (*grid, several))
        assert quantized.codes.dtype == torch.int64
        assert quantized.loss.shape == ()
        assert quantized.usage.shape == (quantizer.num_codes,)

    def test_codes_are_in_range(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        codes = quantizer(latents_BDhw * 100).codes
        assert codes.min() >= 0
        assert codes.max() < quantizer.num_codes

    def test_usage_counts_every_code(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        quantized = quantizer(latents_BDhw)
        assert quantized.usage.sum() == quantized.codes.numel()
        assert torch.equal(quantized.usage.nonzero()[:, 0], torch.unique(quantized.codes))

    def test_the_same_latents_give_the_same_codes(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        assert torch.equal(quantizer(latents_BDhw).codes, quantizer(latents_BDhw.clone()).codes)

    def test_a_code_does_not_depend_on_neighbours_or_batch(
        self, quantizer: VectorQuantizer, latents_BDhw: Tensor
    ) -> None:
        together = quantizer(latents_BDhw).codes
        alone = quantizer(latents_BDhw[1:2, :, 2:3, 3:4]).codes
        assert torch.equal(together[1:2, 2:3, 3:4], alone)

    def test_codes_to_latents_to_codes(self, quantizer: VectorQuantizer) -> None:
        @LAW
        @given(code_grids(quantizer.num_codes, codes_per_position=quantizer.codes_per_position))
        def law(codes: Tensor) -> None:
            assert torch.equal(quantizer(quantizer.lookup(codes)).codes, codes)

        law()

    def test_lookup_gives_the_quantized_latents(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        quantized = quantizer(latents_BDhw)
        torch.testing.assert_close(quantizer.lookup(quantized.codes), quantized.latents)

    def test_the_gradient_goes_straight_through(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        latents_BDhw.requires_grad_()
        weights_BDhw = torch.randn(latents_BDhw.shape, generator=torch.Generator().manual_seed(2))
        weighted = (quantizer(latents_BDhw).latents * weights_BDhw).sum()
        (gradient_BDhw,) = torch.autograd.grad(weighted, latents_BDhw)
        torch.testing.assert_close(gradient_BDhw, weights_BDhw)

    def test_the_loss_is_finite_and_not_negative(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        loss = quantizer(latents_BDhw).loss
        assert torch.isfinite(loss)
        assert loss >= 0

    def test_inference_leaves_the_state_alone(self, quantizer: VectorQuantizer, latents_BDhw: Tensor) -> None:
        assert isinstance(quantizer, nn.Module)
        before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
        quantizer.lookup(quantizer(latents_BDhw).codes)
        after = quantizer.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    def test_the_state_carries_the_codes(
        self, config: ChameleonVQVAEConfig, quantizer: VectorQuantizer, latents_BDhw: Tensor
    ) -> None:
        torch.manual_seed(1)
        other = make_quantizer(config)
        assert isinstance(other, nn.Module)
        assert isinstance(quantizer, nn.Module)
        other.load_state_dict(quantizer.state_dict())
        assert torch.equal(other.eval()(latents_BDhw).codes, quantizer(latents_BDhw).codes)

    def test_a_model_encodes_and_decodes_with_it(self, config: ChameleonVQVAEConfig) -> None:
        model = ChameleonVQVAE(config)
        pixels_BCHW = torch.rand(2, config.in_channels, config.resolution, config.resolution) * 2 - 1
        reconstruction = model(pixels_BCHW)
        assert reconstruction.pixels_BCHW.shape == pixels_BCHW.shape
        assert model.decode(reconstruction.encoding.codes_Bhw).shape == pixels_BCHW.shape
