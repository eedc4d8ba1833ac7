"""The loss: its two terms, its gradients, its one mask, its modalities.

Shapes: M positions that have a target, V vocabulary, E hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear, get_weight_quantizer
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import (
    Batch,
    Losses,
    LossSums,
    Objective,
    TokenDocument,
    TrainingOptions,
    collate,
    target_loss,
)
from chameleon_core.training import (
    loss as loss_module,
)
from chameleon_core.training.loss import layer_loss

OPTIONS = TrainingOptions(steps=1, warmup_steps=0, dropout=0.0)
# The model is in float64 but for its norms, which compute in float32.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ME = torch.randn(7, 5, generator=generator, dtype=dtype, requires_grad=True)
    weight_VE = torch.randn(11, 5, generator=generator, dtype=dtype, requires_grad=True)
    return hidden_ME, weight_VE, torch.tensor([3, 0, 10, 3, 7, 1, 9])


def test_the_loss_of_uniform_logits_is_known_by_hand() -> None:
    loss = target_loss(torch.zeros(2, 3), torch.zeros(8, 3), torch.tensor([1, 5]), z_loss=0.1)
    assert loss.cross_entropy_M.tolist() == pytest.approx([math.log(8)] * 2)
    assert loss.log_normalizer_M.tolist() == pytest.approx([math.log(8)] * 2)
    assert loss.total.item() == pytest.approx(2 * math.log(8) + 0.1 * 2 * math.log(8) ** 2)


IMPORTANCE_M = torch.tensor([1.0, 0.25, 1.0, 0.5, 2.0, 0.25, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("z_loss", [0.0, 0.3], ids=["cross-entropy alone", "with z-loss"])
@pytest.mark.parametrize("importance_M", [None, IMPORTANCE_M], ids=["equal", "weighted"])
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_gradients_are_those_of_finite_differences(z_loss: float, importance_M: Tensor | None, chunk_size: int) -> None:
    hidden_ME, weight_VE, targets_M = tensors()

    def total(hidden: Tensor, weight: Tensor) -> Tensor:
        loss = target_loss(hidden, weight, targets_M, z_loss=z_loss, importance_M=importance_M, chunk_size=chunk_size)
        return loss.total

    torch.autograd.gradcheck(total, (hidden_ME, weight_VE))


def test_both_terms_of_a_target_weigh_what_it_is_given() -> None:
    hidden_ME, weight_VE, targets_M = tensors()
    found = target_loss(hidden_ME, weight_VE, targets_M, z_loss=0.3, importance_M=IMPORTANCE_M)
    alone = [target_loss(hidden_ME[p : p + 1], weight_VE, targets_M[p : p + 1], z_loss=0.3).total for p in range(7)]
    torch.testing.assert_close(found.total, (IMPORTANCE_M * torch.stack(alone)).sum())
    plain = target_loss(hidden_ME, weight_VE, targets_M, z_loss=0.3)
    torch.testing.assert_close(found.cross_entropy_M, plain.cross_entropy_M)


def test_the_gradient_of_the_z_term_alone_is_that_of_finite_differences() -> None:
    hidden_ME, weight_VE, targets_M = tensors()

    def z_term(hidden: Tensor, weight: Tensor) -> Tensor:
        # The total is linear in z_loss, so the difference is the term alone.
        with_z, without = (target_loss(hidden, weight, targets_M, z_loss=z_loss).total for z_loss in (1.0, 0.0))
        return with_z - without

    torch.autograd.gradcheck(z_term, (hidden_ME, weight_VE))


@pytest.mark.parametrize("trains", [(True, False), (False, True)], ids=["frozen output layer", "frozen transformer"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(trains: tuple[bool, bool]) -> None:
    inputs = tensors()[:2]
    targets_M = tensors()[2]
    expected = torch.autograd.grad(target_loss(*inputs, targets_M, z_loss=0.1).total, inputs)
    frozen = [value.detach().requires_grad_(needs) for value, needs in zip(inputs, trains, strict=True)]
    target_loss(*frozen, targets_M, z_loss=0.1).total.backward()
    for value, needs, gradient in zip(frozen, trains, expected, strict=True):
        assert (value.grad is not None) == needs
        if needs:
            torch.testing.assert_close(value.grad, gradient)


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the gradient of the logits was computed")

    monkeypatch.setattr(Tensor, "scatter_add_", fail)
    with torch.no_grad():
        assert not target_loss(*tensors(), z_loss=0.1).total.requires_grad
    with pytest.raises(AssertionError, match="gradient"):
        target_loss(*tensors(), z_loss=0.1)


def test_under_autocast_products_are_bfloat16_and_statistics_float32() -> None:
    hidden_ME, weight_VE, targets_M = tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = target_loss(hidden_ME, weight_VE, targets_M, z_loss=0.0)
    loss.total.backward()
    logits_MV = (hidden_ME.bfloat16() @ weight_VE.bfloat16().T).float()
    torch.testing.assert_close(loss.cross_entropy_M, F.cross_entropy(logits_MV, targets_M, reduction="none"))
    assert hidden_ME.grad is not None
    assert hidden_ME.grad.dtype == torch.float32


def documents() -> list[TokenDocument]:
    """Text and pictures, of different lengths, one with a masked prompt."""
    layout = make_model().layout
    picture = layout.code_to_id_Z[:4].tolist()
    words = torch.nonzero(layout.text_allowed_V)[:6, 0].tolist()
    drawn = [layout.bos_id, *words, layout.begin_image_id, *picture, layout.end_image_id]
    named = [layout.bos_id, *picture, layout.separator_id, *words[:3], layout.eos_id]
    return [
        TokenDocument.of("drawn", drawn),
        TokenDocument.with_answer("named", named, separator_id=layout.separator_id),
        TokenDocument.of("said", [layout.bos_id, *words]),
    ]


def sums(batch: Batch, options: TrainingOptions = OPTIONS) -> LossSums:
    return Objective(make_model().double(), options)(batch)


def test_both_terms_are_over_the_targets_and_nothing_else() -> None:
    batch = collate(documents(), 32)
    model = make_model().double()
    logits_BTV = model(batch.input_ids).logits
    mask_BT = batch.targets >= 0
    cross_entropy = F.cross_entropy(logits_BTV[mask_BT], batch.targets[mask_BT], reduction="sum")
    squared = logits_BTV.logsumexp(dim=-1)[mask_BT].square().sum()
    found = sums(batch)
    torch.testing.assert_close(found.cross_entropy_J.sum(), cross_entropy)
    torch.testing.assert_close(found.squared_log_normalizer, squared)
    torch.testing.assert_close(found.total, cross_entropy + 1e-5 * squared)
    assert found.num_targets_J.sum() == batch.num_targets == mask_BT.sum()


def test_padding_has_no_influence() -> None:
    longer, document, _ = documents()
    padded = collate([document, longer], 32, rows="padded")
    padding_T = torch.arange(padded.input_ids.shape[1]) >= len(document) - 1
    for filler in (0, 5):
        ids_1T = padded.input_ids[:1].masked_fill(padding_T, filler)
        found = sums(Batch(ids_1T, padded.targets[:1], None, None))
        torch.testing.assert_close(found, sums(collate([document], 32)))


def test_losses_are_told_apart_by_the_modality_of_the_target() -> None:
    layout = make_model().layout
    found = sums(collate(documents(), 32))
    targets = [id_ for document in documents() for id_ in document.ids[trained(document)].tolist()]
    pictures = sum(id_ in layout.picture_ids for id_ in targets)
    assert found.num_targets_J.tolist() == [len(targets) - pictures, pictures] == [18, 4]
    losses = Losses.of(found)
    assert losses.text_loss is not None
    assert losses.picture_loss is not None
    assert losses.loss == pytest.approx((18 * losses.text_loss + 4 * losses.picture_loss) / 22)


def test_pictures_weigh_in_the_loss_what_the_options_say() -> None:
    options = OPTIONS.replace(picture_weight=0.25, z_loss=0.0)
    batch = collate(documents(), 32)
    objective = Objective(make_model().double(), options)
    found, plain = objective(batch), sums(batch, OPTIONS.replace(z_loss=0.0))
    text, pictures = plain.cross_entropy_J
    torch.testing.assert_close(found.total, text + 0.25 * pictures)
    assert objective.importance(batch) == 18 + 0.25 * 4
    # What is logged stays comparable between runs.
    assert Losses.of(found) == Losses.of(plain)


def trained(document: TokenDocument) -> slice | list[bool]:
    return slice(1, None) if document.trained is None else document.trained.tolist()


def test_a_modality_without_targets_has_no_loss() -> None:
    losses = Losses.of(sums(collate([documents()[2]], 32)))
    assert losses.picture_loss is None
    assert losses.text_loss == losses.loss


def test_without_a_vocabulary_all_ids_are_text() -> None:
    model = make_model(make_config(vocabulary_map=None))
    found = Objective(model, OPTIONS)(collate(documents(), 32))
    assert found.num_targets_J.tolist() == [22, 0]


class Adapted(nn.Module):
    """A layer with a low-rank addition, as adapters make them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layer = layer
        self.down = nn.Parameter(torch.randn(2, layer.in_features, generator=generator, dtype=layer.weight.dtype))
        self.up = nn.Parameter(torch.randn(layer.out_features, 2, generator=generator, dtype=layer.weight.dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        added: Tensor = self.layer(hidden) + hidden @ self.down.T @ self.up.T
        return added


@pytest.mark.parametrize("z_loss", [0.0, 0.3], ids=["cross-entropy alone", "with z-loss"])
@pytest.mark.parametrize("importance_M", [None, IMPORTANCE_M], ids=["equal", "weighted"])
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_the_loss_of_a_layer_is_that_of_its_weight(z_loss: float, importance_M: Tensor | None, chunk_size: int) -> None:
    hidden_ME, weight_VE, targets_M = tensors()
    layer = nn.Linear(5, 11, bias=False).double()
    layer.weight.data = weight_VE.detach().clone()
    options: dict[str, Any] = {"z_loss": z_loss, "importance_M": importance_M, "chunk_size": chunk_size}
    found = layer_loss(hidden_ME, layer, targets_M, **options)
    expected = target_loss(hidden_ME, weight_VE, targets_M, **options)
    torch.testing.assert_close(found, expected)
    assert not found.cross_entropy_M.requires_grad
    torch.testing.assert_close(
        torch.autograd.grad(found.total, [hidden_ME, layer.weight]),
        torch.autograd.grad(expected.total, [hidden_ME, weight_VE]),
    )


def hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def biased(layer: nn.Linear) -> nn.Module:
    layer.bias = nn.Parameter(torch.linspace(-1, 1, layer.out_features, dtype=layer.weight.dtype))
    return layer


@pytest.mark.parametrize("change", [Adapted, nn.Sequential, hooked, biased], ids=lambda change: change.__name__)
def test_any_output_layer_trains_by_what_it_returns(change: Callable[[nn.Linear], nn.Module]) -> None:
    model = make_model().double()
    model.lm_head = change(model.lm_head)  # type: ignore[assignment]
    batch = collate(documents(), 32)
    found = Objective(model, OPTIONS)(batch)
    mask_BT = batch.targets >= 0
    logits_MV = model(batch.input_ids).logits[mask_BT]
    expected = F.cross_entropy(logits_MV, batch.targets[mask_BT], reduction="sum")
    expected = expected + 1e-5 * logits_MV.logsumexp(dim=-1).square().sum()
    torch.testing.assert_close(found.total, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found.total, parameters), torch.autograd.grad(expected, parameters), **ROUNDING
    )


def test_a_transformer_trains_below_a_quantized_output_layer() -> None:
    model = make_model().requires_grad_(False)
    model.model.embed_tokens.weight.requires_grad_(True)
    model.lm_head = QuantizedLinear.from_linear(model.lm_head, get_weight_quantizer("int8"))  # type: ignore[assignment]
    found = Objective(model, OPTIONS)(collate(documents(), 32))
    (gradient,) = torch.autograd.grad(found.total, [model.model.embed_tokens.weight])
    assert gradient.abs().sum() > 0


def test_a_loss_with_fewer_positions_than_a_block_or_many_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ME, weight_VE, targets_M = tensors(torch.float32)
    results = []
    for elements in (2**22, 25, 1):
        monkeypatch.setattr(loss_module, "BLOCK_ELEMENTS", elements)
        with torch.autocast("cpu", torch.bfloat16):
            loss = target_loss(hidden_ME, weight_VE, targets_M, z_loss=0.1)
        results.append((loss, torch.autograd.grad(loss.total, [hidden_ME, weight_VE])))
    assert results[0][0].total.dtype == torch.float32
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def test_a_chunk_of_logits_takes_128_mib_on_a_cpu_and_512_elsewhere() -> None:
    sizes = [loss_module.chunk_size_of(65536, dtype, torch.device("cpu")) for dtype in (torch.float32, torch.bfloat16)]
    assert sizes == [512, 1024]
    assert loss_module.chunk_size_of(2**40, torch.float32, torch.device("cpu")) == 1
    assert loss_module.chunk_size_of(65536, torch.bfloat16, torch.device("cuda")) == 4096
