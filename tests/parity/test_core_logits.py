"""The same logits as transformers, from the same random weights.

Shapes: B batch, T query length, S key length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonConfig
from chameleon_core.model.layers import activation
from chameleon_core.testing import make_vocabulary, pad_rows

PairMaker = Callable[..., Any]

TOLERANCE = {
    # The bound that the project promises. Logits are about 2, where float32 has steps of 2e-7.
    torch.float32: {"rtol": 0.0, "atol": 1e-5},
    # Logits reach 8, below which bfloat16 has steps of 2^-5. Each side rounds some ten times a layer in its own way.
    torch.bfloat16: {"rtol": 0.0, "atol": 8 * 2**-5},
}
EXACT = TOLERANCE[torch.float32]


def words(count: int, seed: int = 0) -> list[int]:
    """Random ids of text, all below 64."""
    return torch.randint(23, 64, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


ROWS = [words(24, seed=1), words(9, seed=2), words(1, seed=3)]


def positions_of(mask: Tensor) -> Tensor:
    """Positions that count from each row's first real id, which the peer must be told."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


@torch.no_grad()
def peer(model: Any, input_ids: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> Any:
    if mask is not None:
        options = {"attention_mask": mask, "position_ids": positions_of(mask), **options}
    return model(input_ids=input_ids, **options)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_logits_of_padded_batches(make_pair: PairMaker, changes: dict[str, Any], side: Any, backend: str) -> None:
    pair = make_pair(attn_implementation=backend, **changes)
    input_ids, mask = pad_rows(ROWS, side)
    with torch.no_grad():
        ours = pair.masked(pair.ours(input_ids, attention_mask=mask).logits)
    theirs = peer(pair.theirs, input_ids, mask).logits
    real = mask.bool()
    torch.testing.assert_close(ours[real], theirs[real], **EXACT)
    # The weights are such that ids do differ.
    assert float(pair.ours(input_ids, attention_mask=mask).logits.detach()[real].std()) > 1


@pytest.mark.parametrize("length", [16, 17, 40])
@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_logits_at_and_past_the_trained_length(make_pair: PairMaker, kind: str, length: int) -> None:
    pair = make_pair(max_position_embeddings=16, rope_scaling={"type": kind, "factor": 4.0})
    input_ids, mask = pad_rows([words(length, seed=1), words(5, seed=2)])
    with torch.no_grad():
        ours = pair.masked(pair.ours(input_ids, attention_mask=mask).logits)
    real = mask.bool()
    torch.testing.assert_close(ours[real], peer(pair.theirs, input_ids, mask).logits[real], **EXACT)


def test_hidden_states_and_attention_weights(make_pair: PairMaker, changes: dict[str, Any]) -> None:
    pair = make_pair(attn_implementation="eager", **changes)
    input_ids, mask = pad_rows(ROWS)
    with torch.no_grad():
        ours = pair.ours(input_ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    theirs = peer(pair.theirs, input_ids, mask, output_hidden_states=True, output_attentions=True)
    real = mask.bool()
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for own, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(own[real], other[real], **EXACT)
    assert len(ours.attentions) == len(theirs.attentions)
    for own, other in zip(ours.attentions, theirs.attentions, strict=True):
        # Queries that are padding attend to nothing here, and to everything there.
        torch.testing.assert_close(own.transpose(1, 2)[real], other.transpose(1, 2)[real], **EXACT)


def test_loss(make_pair: PairMaker, changes: dict[str, Any]) -> None:
    pair = make_pair(**changes)
    input_ids = torch.tensor([words(12, seed=1), words(12, seed=2)])
    labels = input_ids.clone()
    labels[0, :5] = -100
    theirs = peer(pair.theirs, input_ids, labels=labels).loss
    with torch.no_grad():
        out = pair.ours(input_ids, labels=labels)
    # The peer's loss is over the text alone, its codes being masked before.
    logits_TV = pair.masked(out.logits)[:, :-1].flatten(0, 1)
    masked = torch.nn.functional.cross_entropy(logits_TV, labels[:, 1:].flatten())
    torch.testing.assert_close(masked, theirs, **EXACT)
    assert out.loss > theirs


def test_gradients_of_the_loss(make_pair: PairMaker) -> None:
    pair = make_pair(num_key_value_heads=2, attention_bias=True)
    input_ids = torch.tensor([words(12)])
    pair.theirs(input_ids=input_ids, labels=input_ids).loss.backward()
    logits_TV = pair.masked(pair.ours(input_ids).logits)[0, :-1]
    torch.nn.functional.cross_entropy(logits_TV, input_ids[0, 1:]).backward()
    theirs = dict(pair.theirs.named_parameters())
    for name, weight in pair.ours.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name].grad, **EXACT)


def test_logits_in_bfloat16(make_pair: PairMaker, changes: dict[str, Any]) -> None:
    pair = make_pair(**changes)
    pair.ours.bfloat16()
    pair.theirs.bfloat16()
    input_ids, mask = pad_rows(ROWS)
    with torch.no_grad():
        ours = pair.ours(input_ids, attention_mask=mask).logits
    theirs = peer(pair.theirs, input_ids, mask).logits
    assert ours.dtype == theirs.dtype == torch.bfloat16
    real = mask.bool()
    torch.testing.assert_close(pair.masked(ours)[real], theirs[real], **TOLERANCE[torch.bfloat16])


def test_embeddings_in_the_place_of_ids(make_pair: PairMaker) -> None:
    pair = make_pair()
    embeddings = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = pair.masked(pair.ours(inputs_embeds=embeddings).logits)
    torch.testing.assert_close(ours, peer(pair.theirs, inputs_embeds=embeddings).logits, **EXACT)


@pytest.mark.parametrize("kept", [0, 1, 5, torch.tensor([0, 7])], ids=["all", "last", "last five", "two places"])
def test_logits_to_keep(make_pair: PairMaker, kept: int | Tensor) -> None:
    pair = make_pair()
    input_ids = torch.tensor([words(12, seed=1), words(12, seed=2)])
    with torch.no_grad():
        ours = pair.masked(pair.ours(input_ids, logits_to_keep=kept).logits)
    torch.testing.assert_close(ours, peer(pair.theirs, input_ids, logits_to_keep=kept).logits, **EXACT)


def test_positions_that_are_given(make_pair: PairMaker) -> None:
    pair = make_pair()
    input_ids, positions = torch.tensor([words(5)]), torch.tensor([[3, 4, 9, 10, 40]])
    with torch.no_grad():
        ours = pair.masked(pair.ours(input_ids, position_ids=positions).logits)
    torch.testing.assert_close(ours, peer(pair.theirs, input_ids, position_ids=positions).logits, **EXACT)


@pytest.mark.parametrize("trained", [128, 10], ids=["within the trained length", "past it"])
def test_logits_of_a_cache_step_by_step(make_pair: PairMaker, changes: dict[str, Any], trained: int) -> None:
    """A prompt, then single ids. Past its trained length dynamic RoPE turns new keys by another base than old ones."""
    pair = make_pair(max_position_embeddings=trained, **changes)
    rows = [[*row, *words(8, seed=4)] for row in ROWS[1:]]
    input_ids, mask = pad_rows(rows)
    positions, prompt = positions_of(mask), input_ids.shape[1] - 8
    cache = pair.ours.model.new_cache(len(rows))
    held = None
    for start, end in [(0, prompt), *((place, place + 1) for place in range(prompt, input_ids.shape[1]))]:
        piece = input_ids[:, start:end]
        with torch.no_grad():
            ours = pair.masked(pair.ours(piece, attention_mask=mask[:, :end], cache=cache).logits)
        theirs = peer(
            pair.theirs,
            piece,
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=held,
            use_cache=True,
        )
        held = theirs.past_key_values
        real = mask[:, start:end].bool()
        torch.testing.assert_close(ours[real], theirs.logits[real], **EXACT)


def test_heads_as_wide_as_the_published_models(make_pair: PairMaker) -> None:
    pair = make_pair(
        hidden_size=512, intermediate_size=1376, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2
    )
    assert pair.ours.config.head_dim == ChameleonConfig().head_dim == 128
    input_ids, mask = pad_rows(ROWS)
    with torch.no_grad():
        ours = pair.masked(pair.ours(input_ids, attention_mask=mask).logits)
    real = mask.bool()
    torch.testing.assert_close(ours[real], peer(pair.theirs, input_ids, mask).logits[real], **EXACT)


def test_the_whole_vocabulary(make_pair: PairMaker) -> None:
    vocabulary = make_vocabulary(num_codes=8192, size=65536)
    pair = make_pair(vocab_size=65536, vocabulary_map=vocabulary)
    input_ids = torch.randint(65536, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = pair.masked(pair.ours(input_ids).logits)
    torch.testing.assert_close(ours, peer(pair.theirs, input_ids).logits, **EXACT)


@pytest.mark.parametrize(
    "name", ["silu", "gelu", "gelu_pytorch_tanh", "relu", "relu6", "leaky_relu", "mish", "sigmoid", "tanh"]
)
def test_activations(name: str) -> None:
    from transformers.activations import ACT2FN

    inputs = torch.linspace(-9, 9, 1001)
    torch.testing.assert_close(activation(name)(inputs), ACT2FN[name](inputs), rtol=0, atol=1e-6)
