"""What training sets on a model: dropout of the residual branches, and gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration
from chameleon_core.testing import make_config, make_model


def with_dropout(model: ChameleonForConditionalGeneration, probability: float) -> ChameleonForConditionalGeneration:
    for layer in model.model.layers:
        layer.residual_dropout = probability
    return model


def gradients(model: ChameleonForConditionalGeneration, ids_BT: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    return list(torch.autograd.grad(model(ids_BT, labels=ids_BT).loss, list(model.parameters())))


@pytest.fixture
def ids_BT() -> Tensor:
    return torch.arange(24).reshape(2, 12)


@pytest.mark.parametrize("swin_norm", [False, True])
def test_residual_dropout_drops_whole_branches_at_probability_near_one(swin_norm: bool, ids_BT: Tensor) -> None:
    model = with_dropout(make_model(make_config(swin_norm=swin_norm)), 1 - 1e-12).train()
    hidden_BTE = model.model(ids_BT).last_hidden_state
    # Nothing was added to the embeddings, which the final norm alone then sees.
    torch.testing.assert_close(hidden_BTE, model.model.norm(model.model.embed_tokens(ids_BT)))


def test_residual_dropout_does_nothing_outside_of_training(ids_BT: Tensor) -> None:
    expected_BTV = make_model()(ids_BT).logits
    assert torch.equal(with_dropout(make_model(), 0.5)(ids_BT).logits, expected_BTV)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_gradients(dropout: float, ids_BT: Tensor) -> None:
    model = with_dropout(make_model(), dropout).train()
    expected = gradients(model, ids_BT)
    model.model.gradient_checkpointing = True
    for gradient, expected_gradient in zip(gradients(model, ids_BT), expected, strict=True):
        assert torch.equal(gradient, expected_gradient)


def test_gradient_checkpointing_runs_each_layer_again_in_the_backward_pass(ids_BT: Tensor) -> None:
    model = make_model().train()
    model.model.gradient_checkpointing = True
    calls = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(None))
    loss = model(ids_BT, labels=ids_BT).loss
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2
