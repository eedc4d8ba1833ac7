"""The terms of the loss: their gradients against finite differences in float64, the discriminator's weight by hand.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig
from chameleon_vq.quantizers import Codebook
from chameleon_vq.training import (
    PatchDiscriminator,
    TrainingOptions,
    VQTrainer,
    adaptive_weight,
    hinge_loss,
    initialize,
)
from chameleon_vq.training.codebooks import kmeans, restart
from chameleon_vq.training.metrics import codebook_figures, effective_rank
from chameleon_vq.training.order import BatchOrder

CONFIG = ChameleonVQVAEConfig(
    resolution=8,
    base_channels=32,
    channel_multiplier=(1, 1),
    num_res_blocks=1,
    latent_channels=4,
    embed_dim=3,
    num_embeddings=8,
    initializer_range=0.2,
)
STEP = 1e-6
# Central differences of step h err by about h² plus rounding 1e-16 / h: 1e-10 here, of gradients about 1e-3 and more.
TOLERANCE = 1e-6


class Squares(nn.Module):
    """A smooth perceptual loss."""

    def forward(self, drawn_BCHW: Tensor, real_BCHW: Tensor) -> Tensor:
        return (drawn_BCHW.mean(dim=1) - real_BCHW.mean(dim=1)).square()


def finite_difference(loss: Callable[[], Tensor], weight: Tensor, place: int) -> float:
    """The slope of a loss along one weight."""
    flat = weight.data.reshape(-1)
    kept = flat[place].item()
    with torch.no_grad():
        flat[place] = kept + STEP
        above = loss().item()
        flat[place] = kept - STEP
        below = loss().item()
        flat[place] = kept
    return (above - below) / (2 * STEP)


def check_gradient(loss: Callable[[], Tensor], weights: dict[str, Tensor]) -> None:
    """Compare a few places of each weight's gradient."""
    gradients = torch.autograd.grad(loss(), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        for place in np.linspace(0, weight.numel() - 1, 5).astype(int):
            expected = finite_difference(loss, weight, int(place))
            assert gradient.reshape(-1)[place].item() == pytest.approx(expected, rel=1e-4, abs=TOLERANCE), name


@pytest.fixture
def model() -> ChameleonVQVAE:
    torch.manual_seed(0)
    return ChameleonVQVAE(CONFIG).double()


@pytest.fixture
def pixels_BCHW() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("term", ["l1", "l2", "perceptual", "reconstruction"])
def test_the_gradient_of_each_picture_term(term: str, model: ChameleonVQVAE, pixels_BCHW: Tensor) -> None:
    trainer = VQTrainer(model, TrainingOptions(l1_weight=0.3, l2_weight=0.7), perceptual=Squares())
    # Without quantization between encoder and decoder, where the loss would jump.
    codes_Bhw = model.encode(pixels_BCHW).codes_Bhw

    def loss() -> Tensor:
        return getattr(trainer._losses(model.decode(codes_Bhw), pixels_BCHW), term)

    weights = dict(model.decoder.named_parameters()) if model.decoder is not None else {}
    chosen = ["conv_in.weight", "mid.attn_1.q.weight", "up.0.block.0.norm1.bias", "conv_out.weight"]
    check_gradient(loss, {name: weights[name] for name in chosen})


def test_the_gradient_of_the_quantizer_s_term(model: ChameleonVQVAE, pixels_BCHW: Tensor) -> None:
    """With the stopped gradients held constant, both terms are ordinary functions."""
    codebook = model.quantize
    assert isinstance(codebook, Codebook)
    encoding = model.encode(pixels_BCHW)
    codes_Bhw, still_BDhw = encoding.codes_Bhw, encoding.latents_BDhw.detach()
    entries_BDhw = codebook.lookup(codes_Bhw).detach()

    def split_terms() -> Tensor:
        commitment = (entries_BDhw - model.encode(pixels_BCHW).latents_BDhw).square().mean()
        return commitment + codebook.beta * (codebook.lookup(codes_Bhw) - still_BDhw).square().mean()

    weights = {"quant_conv": model.quant_conv.weight, "embedding": codebook.embedding.weight}
    check_gradient(split_terms, weights)
    actual = torch.autograd.grad(model.encode(pixels_BCHW).loss, list(weights.values()))
    expected = torch.autograd.grad(split_terms(), list(weights.values()))
    torch.testing.assert_close(actual, expected)


def test_the_gradient_of_the_discriminator_s_terms(pixels_BCHW: Tensor) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=4, layers=1).double()
    drawn_BCHW = pixels_BCHW.flip(2)
    weights = dict(discriminator.named_parameters())
    check_gradient(lambda: hinge_loss(discriminator(pixels_BCHW), discriminator(drawn_BCHW)), weights)
    drawn_BCHW.requires_grad_()
    check_gradient(lambda: -discriminator(drawn_BCHW).mean(), {"pixels": drawn_BCHW})


def test_the_hinge_by_hand() -> None:
    # Real: 0 and 0.5 fall short of 1, drawn: 2 exceeds −1 by 3: (0 + 0.5) / 2 and (0 + 3) / 2, halved and added.
    loss = hinge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-1.5, 2.0]))
    assert loss.item() == pytest.approx(0.5 * 0.25 + 0.5 * 1.5)


def test_the_adaptive_weight_by_hand() -> None:
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction = 3 * layer[0] + 4 * layer[1]  # gradient (3, 4), of norm 5
    generator = 0.5 * layer[0]  # gradient (0.5, 0)
    weight = adaptive_weight(reconstruction, generator, layer)
    assert weight.item() == pytest.approx(10, rel=1e-5)
    assert not weight.requires_grad


def test_the_adaptive_weight_is_bounded() -> None:
    layer = torch.tensor([1.0], requires_grad=True)
    assert adaptive_weight(layer.sum(), (0 * layer).sum(), layer).item() == 1e4


def test_a_discriminator_s_verdict_is_per_patch_and_per_picture() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=4, layers=3)
    pixels_BCHW = torch.randn(2, 3, 64, 64)
    assert discriminator(pixels_BCHW).shape == (2, 1, 6, 6)
    torch.testing.assert_close(discriminator(pixels_BCHW)[:1], discriminator(pixels_BCHW[:1]))


def test_a_trained_discriminator_tells_drawn_from_real(pixels_BCHW: Tensor) -> None:
    torch.manual_seed(0)
    options = TrainingOptions(
        discriminator_weight=1, discriminator_channels=8, discriminator_layers=1, discriminator_learning_rate=1e-2
    )
    trainer = VQTrainer(ChameleonVQVAE(CONFIG), options)
    real_BCHW, drawn_BCHW = pixels_BCHW.float(), torch.zeros_like(pixels_BCHW).float()
    assert trainer.adversary is not None
    exact = torch.autocast("cpu", enabled=False)
    losses = [trainer.adversary.train(real_BCHW, drawn_BCHW, exact).item() for _ in range(30)]
    assert losses[-1] < losses[0] / 2


def test_kmeans_finds_the_clusters() -> None:
    random = np.random.default_rng(0)
    centres_ZD = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    noise = torch.from_numpy(random.normal(0, 0.1, (400, 2))).float()
    latents_MD = centres_ZD.repeat(100, 1) + noise
    found_ZD = kmeans(latents_MD, 4, random, iterations=30)
    assert torch.cdist(centres_ZD, found_ZD).min(dim=1).values.max() < 0.1


def test_kmeans_serves_with_fewer_latents_than_entries() -> None:
    latents_MD = torch.tensor([[1.0], [2.0]])
    entries_ZD = kmeans(latents_MD, 5, np.random.default_rng(0))
    assert set(entries_ZD.flatten().tolist()) == {1.0, 2.0}


def test_a_restarted_entry_has_no_momentum() -> None:
    codebook = Codebook(3, 2)
    optimizer = torch.optim.AdamW(codebook.parameters(), 0.1)
    codebook(torch.randn(1, 2, 4, 4)).loss.backward()
    optimizer.step()
    restart(codebook, torch.tensor([1]), torch.tensor([[5.0, 6.0]]), optimizer)
    assert codebook.embedding.weight[1].tolist() == [5.0, 6.0]
    state = optimizer.state[codebook.embedding.weight]
    assert not state["exp_avg"][1].any()
    assert not state["exp_avg_sq"][1].any()
    assert state["exp_avg"].any()


def test_every_pass_shows_every_picture_once() -> None:
    order = BatchOrder(7, batch_size=3, seed=1)
    positions = [index for step in range(7) for index in order.batch(step)]
    passes = [positions[start : start + 7] for start in range(0, 21, 7)]
    assert all(sorted(part) == list(range(7)) for part in passes)
    assert passes[0] != passes[1]
    assert BatchOrder(7, batch_size=3, seed=1).batch(5) == positions[15:18]
    assert BatchOrder(2, batch_size=5, seed=0).batch(0)[:2] in ([0, 1], [1, 0])


def test_fresh_weights_are_a_linear_network() -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(CONFIG)
    initialize(model)
    model = model.double()
    pixels_BCHW = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    pixels_BCHW[2] = pixels_BCHW[0] + pixels_BCHW[1]
    # Up to the encoder's last norm: convolutions alone, since no block adds anything.
    hidden_BCHW = model.encoder.conv_in(pixels_BCHW)
    for level in model.encoder.down:
        hidden_BCHW = level(hidden_BCHW)
    hidden_BCHW = model.encoder.mid(hidden_BCHW)
    torch.testing.assert_close(hidden_BCHW[2], hidden_BCHW[0] + hidden_BCHW[1])
    assert hidden_BCHW[0].std().item() == pytest.approx(pixels_BCHW[0].std().item(), rel=0.5)


def test_the_effective_rank_by_hand() -> None:
    # Two directions of equal variance, wherever the latents lie; then one.
    latents_MD = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]]) + 5
    assert effective_rank(latents_MD) == pytest.approx(2)
    assert effective_rank(latents_MD[:2]) == pytest.approx(1)
    # Shares of 3/4 and 1/4: (4/3)^(3/4) · 4^(1/4).
    assert effective_rank(latents_MD[[0, 1, 0, 1, 0, 1, 2, 3]]) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)


def test_the_codebook_s_figures_by_hand() -> None:
    usage, perplexity = codebook_figures(torch.tensor([5, 5, 0, 0]))
    assert (usage, perplexity) == (0.5, pytest.approx(2))
