"""How much a trained model loses by quantization: on held-out ids, it hardly changes its mind.

Shapes: B batch, T positions of a row, V vocabulary.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from chameleon_core import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Quantization,
    quantization_report,
    quantize_model,
)

V = 64


def draw_text(rows: int, length: int, *, seed: int) -> Tensor:
    """Ids [B, T] of a source in which an id depends on the two before it, by probabilities that are always the same."""
    generator = torch.Generator().manual_seed(0)
    before, last = torch.randn(2, V, 8, generator=generator)
    logits_VVV = (before[:, None] + last[None]) @ torch.randn(8, V, generator=generator) * 2**0.5
    generator.manual_seed(seed)
    ids_BT = torch.randint(0, V, (rows, length), generator=generator)
    for position in range(2, length):
        probabilities_BV = logits_VVV[ids_BT[:, position - 2], ids_BT[:, position - 1]].softmax(-1)
        ids_BT[:, position] = torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]
    return ids_BT


@pytest.fixture(scope="module")
def trained() -> ChameleonForConditionalGeneration:
    """A model that has learnt the source, in a few seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ChameleonForConditionalGeneration(
            ChameleonConfig(
                vocab_size=V,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=64,
            )
        )
    steps = 80
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for ids_BT in draw_text(16 * steps, 33, seed=1).split(16):
        loss = model(ids_BT, labels=ids_BT).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def test_the_model_has_learnt_something_to_lose(trained: ChameleonForConditionalGeneration) -> None:
    held_out_BT = draw_text(32, 33, seed=2)
    with torch.no_grad():
        loss = trained(held_out_BT, labels=held_out_BT).loss
    assert loss is not None
    assert loss < 1.8  # a guess costs log 64 = 4.16 nats


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("quantization", "agreement", "divergence"),
    [
        pytest.param(Quantization("int8"), 0.98, 1e-3, id="int8"),
        pytest.param(Quantization("int8", skip=()), 0.98, 1e-3, id="int8, the output layer too"),
        pytest.param(Quantization("int4", {"group_size": 64}), 0.90, 1e-2, id="int4 in groups of 64"),
        pytest.param(Quantization("int4", {"group_size": 128}), 0.90, 1e-2, id="int4 in groups of 128"),
    ],
)
def test_the_likeliest_id_is_nearly_always_the_same(
    trained: ChameleonForConditionalGeneration,
    dtype: torch.dtype,
    quantization: Quantization,
    agreement: float,
    divergence: float,
) -> None:
    reference = copy.deepcopy(trained).to(dtype)
    quantized = copy.deepcopy(reference)
    quantize_model(quantized, quantization)
    report = quantization_report(reference, quantized, draw_text(32, 33, seed=2))
    assert report.num_positions == 32 * 33
    assert report.top1_agreement >= agreement
    assert report.mean_divergence <= divergence
