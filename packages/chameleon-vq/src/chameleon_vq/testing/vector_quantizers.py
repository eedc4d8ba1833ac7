"""The conformance suite for vector quantizers: inherit the class, name the quantizer, run pytest.

Shapes: B pictures, C channels, H W pixels, D width of a latent, h w latent grid, Q codes per position.
"""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from ..config import ChameleonVQVAEConfig
from ..errors import ConfigError
from ..hookspecs import HOOK_API_VERSION
from ..image_processor import ChameleonImageProcessor
from ..registry import REGISTRY, VECTOR_QUANTIZERS_HOOK, make_quantizer
from ..tokenizer import ImageTokenizer
from .conformance import Conformance
from .subject import Subject
from .tolerances import assert_close

LAW = settings(max_examples=25, deadline=None, derandomize=True, database=None)


class VectorQuantizerConformance(Conformance, Subject):
    """The contract of ``VectorQuantizer``, as tests.

    A subclass names the quantizer, as it is registered through the hook, and where needed a configuration for it::

        class TestAcme(VectorQuantizerConformance):
            name = "acme"
            config_fields = {"embed_dim": 4, "quantizer_options": {"levels": [8, 8, 8, 8]}}

    A test that doesn't apply is named in ``not_applicable`` with the reason. Only quantizers of several codes per
    position may leave out that codes come back from their latents. ``device`` is where the tests run.
    """

    @pytest.fixture
    def config(self) -> ChameleonVQVAEConfig:
        return self.make_config()

    @pytest.fixture
    def quantizer(self, config: ChameleonVQVAEConfig) -> Any:
        return self.make_quantizer(config)

    # Its registration, and what it refuses.

    def test_the_spec_states_this_version_of_the_hooks(self) -> None:
        assert REGISTRY.get(VECTOR_QUANTIZERS_HOOK, self.name).api_version == HOOK_API_VERSION

    def test_it_can_run_here_and_serves_a_configuration(self, config: ChameleonVQVAEConfig) -> None:
        spec = REGISTRY.get(VECTOR_QUANTIZERS_HOOK, self.name)
        assert spec.why_unavailable() is None, "the suite runs where the quantizer can"
        assert spec.why_unsupported(config) is None, "the suite's config_fields must be ones that the quantizer serves"

    def test_an_unknown_option_is_refused_with_a_sentence(self, config: ChameleonVQVAEConfig) -> None:
        wrong = config.replace(quantizer_options={**config.quantizer_options, "no such option": 1})
        reason = REGISTRY.get(VECTOR_QUANTIZERS_HOOK, self.name).why_unsupported(wrong)
        assert reason is None or (isinstance(reason, str) and " " in reason.strip())
        with pytest.raises(ConfigError):
            make_quantizer(wrong)

    def test_what_may_be_left_out(self, quantizer: Any) -> None:
        """Codes that don't come back are allowed only with several codes per position."""
        left_out = "test_codes_to_latents_to_codes" in self.not_applicable
        assert quantizer.codes_per_position > 1 or not left_out, "with one code per position every code comes back"

    # The shapes and ranges of its results.

    def test_it_is_a_layer_that_says_how_many_codes_it_has(self, quantizer: Any) -> None:
        assert type(quantizer.num_codes) is int
        assert quantizer.num_codes >= 2
        assert type(quantizer.codes_per_position) is int
        assert quantizer.codes_per_position >= 1
        assert isinstance(quantizer, nn.Module)

    def test_shapes_and_dtypes(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        self.assert_shapes(quantizer, quantizer(self.make_latents(config)), self.make_latents(config))

    def test_codes_are_in_range(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        @LAW
        @given(self.latents(config))
        def law(latents_BDhw: Tensor) -> None:
            codes = quantizer(latents_BDhw).codes
            assert codes.min() >= 0
            assert codes.max() < quantizer.num_codes

        law()

    def test_usage_counts_every_code(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        @LAW
        @given(self.latents(config))
        def law(latents_BDhw: Tensor) -> None:
            quantized = quantizer(latents_BDhw)
            count = Counter(quantized.codes.flatten().tolist())
            assert quantized.usage.tolist() == [count[code] for code in range(quantizer.num_codes)]

        law()

    # Which codes it chooses.

    def test_the_same_latents_give_the_same_codes(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        latents_BDhw = self.make_latents(config)
        assert torch.equal(quantizer(latents_BDhw).codes, quantizer(latents_BDhw.clone()).codes)

    def test_a_code_does_not_depend_on_neighbours_or_batch(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        latents_BDhw = self.make_latents(config)
        together = quantizer(latents_BDhw).codes
        for row, column in ((0, 0), (2, 3), (4, 1)):
            alone = quantizer(latents_BDhw[1:2, :, row : row + 1, column : column + 1]).codes
            assert torch.equal(together[1:2, row : row + 1, column : column + 1], alone)

    def test_codes_are_those_of_float32_in_bfloat16(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        """Latents are bfloat16 when they come from a convolution under autocast."""
        latents_BDhw = self.many_latents(config).bfloat16()
        rounded, exact = quantizer(latents_BDhw), quantizer(latents_BDhw.float())
        assert torch.equal(rounded.codes, exact.codes)
        assert rounded.latents.dtype == torch.bfloat16
        magnitude = latents_BDhw.norm(dim=1, keepdim=True) + self.largest_value(quantizer)
        assert_close("quantized latents in bfloat16", rounded.latents, exact.latents, magnitude)

    def test_autocast_changes_no_code(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        """Neither the choice of the nearest entry nor the loss may be computed in bfloat16."""
        latents_BDhw = self.many_latents(config)
        outside = quantizer(latents_BDhw)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            inside = quantizer(latents_BDhw)
        assert torch.equal(inside.codes, outside.codes)
        torch.testing.assert_close(inside.loss, outside.loss)
        assert torch.equal(inside.latents, outside.latents)

    # The latents of codes.

    def test_codes_to_latents_to_codes(self, quantizer: Any) -> None:
        every_code = self.every_code(quantizer)
        assert torch.equal(quantizer(quantizer.lookup(every_code)).codes, every_code)

        @LAW
        @given(self.codes(quantizer))
        def law(codes: Tensor) -> None:
            assert torch.equal(quantizer(quantizer.lookup(codes)).codes, codes)

        law()

    def test_every_code_can_be_looked_up_in_every_place(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        """Whatever codes a transformer writes can be decoded, each without regard to its neighbours."""
        assert torch.isfinite(self.largest_value(quantizer)), "the latent of a code is NaN or infinite"

        @LAW
        @given(self.codes(quantizer))
        def law(codes: Tensor) -> None:
            latents_BDhw = quantizer.lookup(codes)
            assert latents_BDhw.shape == (len(codes), config.embed_dim, *codes.shape[1:3])
            alone = quantizer.lookup(codes[-1:, -1:, :1])
            assert_close("latents of one position", alone, latents_BDhw[-1:, :, -1:, :1], self.largest_value(quantizer))

        law()

    def test_lookup_gives_the_quantized_latents(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        @LAW
        @given(self.latents(config))
        def law(latents_BDhw: Tensor) -> None:
            self.assert_lookup_gives_latents(quantizer, latents_BDhw)

        law()

    # Training.

    def test_the_gradient_reaches_the_latents(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        """Only the latents of the same position, and in the direction of the quantized latents' gradient on average."""
        latents_BDhw = self.make_latents(config).requires_grad_()
        quantized_BDhw = quantizer.train()(latents_BDhw).latents
        weights_BDhw = torch.zeros_like(quantized_BDhw)
        weights_BDhw[1, :, 2, 3] = 1.0
        (gradient_BDhw,) = torch.autograd.grad(quantized_BDhw, latents_BDhw, weights_BDhw, retain_graph=True)
        assert gradient_BDhw[1, :, 2, 3].any(), "no gradient reaches the latents"
        assert not (gradient_BDhw * (weights_BDhw == 0)).any(), "the gradient reaches latents of other positions"
        weights_BDhw = self.make_weights(config)
        (gradient_BDhw,) = torch.autograd.grad(quantized_BDhw, latents_BDhw, weights_BDhw)
        assert torch.isfinite(gradient_BDhw).all()
        assert (gradient_BDhw * weights_BDhw).sum() > 0, "the gradient points in the opposite direction"

    def test_the_gradient_goes_straight_through(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        latents_BDhw = self.make_latents(config).requires_grad_()
        weights_BDhw = self.make_weights(config)
        quantized_BDhw = quantizer.train()(latents_BDhw).latents
        (gradient_BDhw,) = torch.autograd.grad(quantized_BDhw, latents_BDhw, weights_BDhw)
        assert_close("gradients", gradient_BDhw, weights_BDhw, weights_BDhw.abs())

    def test_the_loss_and_its_gradient_are_finite(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        @LAW
        @given(self.latents(config))
        def law(latents_BDhw: Tensor) -> None:
            latents_BDhw.requires_grad_()
            loss = quantizer.train()(latents_BDhw).loss
            assert torch.isfinite(loss)
            if loss.requires_grad:
                (gradient_BDhw,) = torch.autograd.grad(loss, latents_BDhw, allow_unused=True)
                assert gradient_BDhw is None or torch.isfinite(gradient_BDhw).all()

        law()

    def test_a_step_of_training_keeps_the_contract(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        latents_BDhw = self.make_latents(config).requires_grad_()
        quantized = quantizer.train()(latents_BDhw)
        self.assert_shapes(quantizer, quantized, latents_BDhw)
        assert quantized.usage.sum() == quantized.codes.numel()
        (quantized.loss + quantized.latents.square().mean()).backward()
        learned = [parameter for parameter in quantizer.parameters() if parameter.requires_grad]
        if learned:
            torch.optim.SGD(learned, lr=0.1).step()
        self.assert_lookup_gives_latents(quantizer.eval(), latents_BDhw.detach())

    # Its state.

    def test_inference_leaves_the_state_alone(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        before = copy.deepcopy(quantizer.state_dict())
        codes = quantizer(self.make_latents(config)).codes
        quantizer.lookup(codes)
        quantizer.train().lookup(codes)
        after = quantizer.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    def test_the_state_carries_the_codes(self, config: ChameleonVQVAEConfig, quantizer: Any) -> None:
        quantizer.train()(self.make_latents(config))  # so that it contains what training changes
        quantizer.eval()
        other = self.make_quantizer(config, seed=1)
        other.load_state_dict(quantizer.state_dict())
        mine, theirs = quantizer(self.make_latents(config)), other(self.make_latents(config))
        assert torch.equal(mine.codes, theirs.codes)
        assert torch.equal(mine.latents, theirs.latents)

    # In a model.

    def test_a_model_encodes_and_decodes_with_it(self, config: ChameleonVQVAEConfig) -> None:
        model = self.make_model(config)
        reconstruction = model(self.make_pixels(config))
        assert reconstruction.pixels_BCHW.shape == self.make_pixels(config).shape
        reconstruction.pixels_BCHW.mean().backward()
        gradient = model.encoder.conv_in.weight.grad
        assert gradient is not None and gradient.any(), "no gradient reaches the encoder"  # noqa: PT018
        assert torch.isfinite(model.eval().decode(reconstruction.encoding.codes_Bhw)).all()

    def test_a_model_in_bfloat16_encodes_and_decodes_with_it(self, config: ChameleonVQVAEConfig) -> None:
        model = self.make_model(config).to(torch.bfloat16).eval()
        codes = model.encode(self.make_pixels(config).bfloat16()).codes_Bhw
        assert codes.max() < model.quantize.num_codes
        assert torch.isfinite(model.decode(codes)).all()

    def test_a_saved_tokenizer_gives_the_same_codes_and_pictures(
        self, config: ChameleonVQVAEConfig, tmp_path: Path
    ) -> None:
        model = self.make_model(config)
        model.encode(self.make_pixels(config))  # so that it contains what training changes
        saved = ImageTokenizer(model, ChameleonImageProcessor.meta(config.resolution))
        saved.save_pretrained(tmp_path)
        loaded = ImageTokenizer.from_pretrained(tmp_path, device=self.device)
        assert loaded.fingerprint == saved.fingerprint
        codes_BN = saved.encode_pixels(self.make_pixels(config))
        assert codes_BN.shape == (2, saved.tokens_per_image)
        assert codes_BN.min() < codes_BN.max(), "one code in all places wouldn't show that the tokenizers differ"
        assert torch.equal(loaded.encode_pixels(self.make_pixels(config)), codes_BN)
        pictures = [[image.tobytes() for image in tokenizer.decode(codes_BN)] for tokenizer in (saved, loaded)]
        assert pictures[0] == pictures[1]
        assert loaded.config_dict() == saved.config_dict()
        assert saved.config_dict().get("codes_per_position", 1) == saved.codes_per_position
