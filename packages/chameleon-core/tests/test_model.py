"""The transformer's parts, by hand and by their laws.

Shapes: B batch, T query length, S key length, H heads, K key/value heads, D head width, E hidden width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chameleon_core.config import ChameleonConfig
from chameleon_core.model import ChameleonModel, ModelOutput
from chameleon_core.model.cache import KVCache
from chameleon_core.model.layers import HeadNorm, RMSNorm, activation
from chameleon_core.testing import make_config, pad_rows, randomize

# Sums of some ten numbers around 1 in float32, whose order depends on the matrices' shapes.
ROUNDING = {"rtol": 0.0, "atol": 1e-5}

LAYER_KEYS = [
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_norm.weight",
    "self_attn.q_norm.bias",
    "self_attn.k_norm.weight",
    "self_attn.k_norm.bias",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]


def make(config: ChameleonConfig | None = None, *, attn_implementation: str = "sdpa") -> ChameleonModel:
    return randomize(ChameleonModel(config or make_config(), attn_implementation=attn_implementation)).eval()


def ids(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


@torch.no_grad()
def states(model: ChameleonModel, *arguments: Any, **options: Any) -> Tensor:
    return model(*arguments, **options).last_hidden_state


def test_state_dict_keys_are_those_of_published_checkpoints() -> None:
    keys = [f"layers.{layer}.{key}" for layer in range(2) for key in LAYER_KEYS]
    assert list(ChameleonModel(make_config()).state_dict()) == ["embed_tokens.weight", *keys, "norm.weight"]


def test_biases_and_qk_norm_come_and_go_with_the_config() -> None:
    with_biases = set(ChameleonModel(make_config(attention_bias=True, mlp_bias=True, num_hidden_layers=1)).state_dict())
    plain = set(ChameleonModel(make_config(num_hidden_layers=1)).state_dict())
    without_norm = set(ChameleonModel(make_config(qk_norm=False, num_hidden_layers=1)).state_dict())
    attention = {f"layers.0.self_attn.{name}_proj.bias" for name in "qkvo"}
    assert with_biases - plain == attention | {f"layers.0.mlp.{name}_proj.bias" for name in ("gate", "up", "down")}
    assert plain - without_norm == {
        f"layers.0.self_attn.{name}_norm.{kind}" for name in "qk" for kind in ("weight", "bias")
    }


def test_weights_have_the_shapes_of_grouped_heads() -> None:
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in ChameleonModel(make_config(num_key_value_heads=2)).layers[0].self_attn.state_dict().items()
    }
    assert shapes == {
        "q_proj.weight": (32, 32),
        "k_proj.weight": (16, 32),
        "v_proj.weight": (16, 32),
        "o_proj.weight": (32, 32),
        "q_norm.weight": (4, 8),
        "q_norm.bias": (4, 8),
        "k_norm.weight": (2, 8),
        "k_norm.bias": (2, 8),
    }


@pytest.mark.parametrize("deviation", [0.0, 0.02, 3.0])
def test_fresh_weights_have_the_deviation_asked_for_and_stay_within_three(deviation: float) -> None:
    torch.manual_seed(0)
    model = ChameleonModel(make_config(initializer_range=deviation, hidden_size=128, attention_bias=True))
    for weight in (model.embed_tokens.weight, model.layers[0].self_attn.q_proj.weight):
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.1)
        assert float(weight.detach().abs().max()) <= 3 * deviation
    assert not model.layers[0].self_attn.q_proj.bias.any()


def test_rms_norm_divides_by_the_root_of_the_mean_square() -> None:
    norm = RMSNorm(4, epsilon=0.75)
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    # The mean square of (1, 1, 1, 9) is 21; with 0.75, and so the root of 21.75.
    expected = torch.tensor([1.0, 2.0, 3.0, 36.0]) / 21.75**0.5
    torch.testing.assert_close(norm(torch.tensor([1.0, 1.0, 1.0, 9.0])), expected)


def test_rms_norm_keeps_its_statistics_in_float32() -> None:
    # 300² overflows float16.
    assert norm_of(torch.full((4,), 300.0, dtype=torch.float16)).tolist() == [1.0] * 4


def norm_of(hidden: Tensor) -> Tensor:
    return RMSNorm(4, epsilon=1e-5).to(hidden.dtype)(hidden)


def test_each_head_is_normed_alone_and_has_a_weight_and_a_bias_of_its_own() -> None:
    norm = HeadNorm(2, 2)
    norm.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    norm.bias.data = torch.tensor([[0.0, 10.0], [20.0, 30.0]])
    # Any two numbers a < b have (−1, 1) as their norm; the second head's are 100 times the first's.
    states_BTHD = torch.tensor([[[[1.0, 3.0], [500.0, 100.0]]]])
    expected = torch.tensor([[[[-1.0, 12.0], [23.0, 26.0]]]])
    torch.testing.assert_close(norm(states_BTHD), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "at_one"),
    [("silu", 0.7310586), ("gelu", 0.8413447), ("gelu_pytorch_tanh", 0.8411920), ("relu", 1.0), ("tanh", 0.7615942)],
)
def test_activations_by_name(name: str, at_one: float) -> None:
    assert float(activation(name)(torch.tensor(1.0))) == pytest.approx(at_one, abs=1e-6)


def test_feed_forward_is_down_of_gated_up() -> None:
    mlp = make().layers[0].mlp
    hidden = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    expected = (F.silu(hidden @ mlp.gate_proj.weight.T) * (hidden @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    torch.testing.assert_close(mlp(hidden), expected)


class Doubling(nn.Module):
    """In the place of a branch: tells the order of norms and residuals."""

    def forward(self, hidden: Tensor, *_: Any) -> Tensor:
        return 2 * hidden


@pytest.mark.parametrize("swin_norm", [False, True], ids=["pre-norm", "swin-norm"])
def test_the_norm_stands_before_the_branch_or_with_swin_norm_after_it(swin_norm: bool) -> None:
    layer = make(make_config(swin_norm=swin_norm)).layers[0]
    layer.self_attn, layer.mlp = Doubling(), Doubling()
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    hidden = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(0))
    if swin_norm:
        middle = hidden + first(2 * hidden)
        expected = middle + second(2 * middle)
    else:
        middle = hidden + 2 * first(hidden)
        expected = middle + 2 * second(middle)
    assert torch.equal(layer(hidden, None), expected)


def test_one_token_attends_to_itself_alone() -> None:
    # Softmax over one key is 1: attention is o(v(x)), whatever query, key, norms and positions are.
    attention = make(make_config(attention_bias=True)).layers[0].self_attn
    model = make()
    model.layers[0].self_attn = attention
    hidden = model.embed_tokens(ids([7]))
    seen: list[Tensor] = []
    attention.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    model(inputs_embeds=hidden)
    torch.testing.assert_close(seen[1], attention.o_proj(attention.v_proj(seen[0])))


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_query_heads_share_a_key_value_head_with_their_neighbours(backend: str) -> None:
    """Grouped heads are the same as full ones whose key/value heads repeat: 0, 0, 1, 1 and not 0, 1, 0, 1."""
    grouped = make(make_config(num_key_value_heads=2), attn_implementation=backend)
    full = make(make_config(), attn_implementation=backend)
    weights = grouped.state_dict()
    for name, tensor in weights.items():
        if ".k_" in name or ".v_" in name:
            heads_KDx = tensor.reshape(2, 8, -1) if "proj" in name else tensor[:, :, None]
            weights[name] = heads_KDx.repeat_interleave(2, dim=0).reshape(full.state_dict()[name].shape)
    full.load_state_dict(weights)
    prompt = ids([40, 41, 42, 43])
    torch.testing.assert_close(states(grouped, prompt), states(full, prompt), **ROUNDING)


def test_backends_agree() -> None:
    prompt, mask = pad_rows([[40, 41, 42], [43]])
    left, right = (
        states(make(attn_implementation=name), prompt, attention_mask=mask)[mask.bool()] for name in ("eager", "sdpa")
    )
    torch.testing.assert_close(left, right, **ROUNDING)


def test_positions_count_from_the_first_real_one() -> None:
    model = make()
    prompt, mask = pad_rows([[40, 41, 42], [43]])
    explicit = torch.tensor([[0, 1, 2], [0, 0, 0]])
    assert torch.equal(
        states(model, prompt, attention_mask=mask)[mask.bool()],
        states(model, prompt, attention_mask=mask, position_ids=explicit)[mask.bool()],
    )


def test_positions_can_be_given_for_all_rows_at_once() -> None:
    model = make()
    prompt = ids([40, 41], [42, 43])
    shared = states(model, prompt, position_ids=torch.tensor([[3, 9]]))
    assert torch.equal(shared, states(model, prompt, position_ids=torch.tensor([[3, 9], [3, 9]])))
    assert not torch.allclose(shared, states(model, prompt))


def test_a_mask_of_ones_is_no_mask() -> None:
    model = make()
    prompt = ids([40, 41], [42, 43])
    assert torch.equal(states(model, prompt, attention_mask=torch.ones_like(prompt)), states(model, prompt))


def test_a_row_that_is_all_padding_gives_finite_states_and_leaves_the_others_alone() -> None:
    model = make()
    prompt, mask = ids([40, 41], [42, 43]), ids([1, 1], [0, 0])
    out = states(model, prompt, attention_mask=mask)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[:1], states(model, prompt[:1]), **ROUNDING)


def test_packed_documents_are_the_same_as_documents_apart() -> None:
    model = make()
    first, second = [40, 41, 42], [43, 44]
    packed = states(model, ids(first + second), document_ids=ids([0, 0, 0, 1, 1]))
    # Positions run on, but attention sees only their differences.
    torch.testing.assert_close(packed[:, :3], states(model, ids(first)), **ROUNDING)
    torch.testing.assert_close(packed[:, 3:], states(model, ids(second)), **ROUNDING)


def test_hidden_states_are_the_embeddings_and_each_layers_output() -> None:
    model = make()
    prompt = ids([40, 41, 42])
    with torch.no_grad():
        out: ModelOutput = model(prompt, output_hidden_states=True)
    assert out.hidden_states is not None
    assert len(out.hidden_states) == 3
    assert torch.equal(out.hidden_states[0], model.embed_tokens(prompt))
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert not torch.equal(out.hidden_states[1], out.hidden_states[2])


def test_attention_weights_sum_to_one_over_what_a_query_may_see() -> None:
    model = make(attn_implementation="eager")
    prompt, mask = pad_rows([[40, 41, 42], [43]])
    with torch.no_grad():
        attentions = model(prompt, attention_mask=mask, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(2, 4, 3, 3)] * 2
    for weights_BHTS in attentions:
        torch.testing.assert_close(weights_BHTS[0].sum(dim=-1), torch.ones(4, 3))
        assert not weights_BHTS[0].triu(1).any()
        assert torch.equal(weights_BHTS[1, :, -1], torch.tensor([[0.0, 0.0, 1.0]] * 4))


def test_a_backend_without_weights_says_which_one_has_them() -> None:
    with pytest.raises(ValueError, match=r"'sdpa' never holds attention weights.*'eager'"):
        make()(ids([40]), output_attentions=True)


def test_not_asked_for_is_not_there() -> None:
    out = make()(ids([40]), use_cache=False)
    assert out.hidden_states is None
    assert out.attentions is None
    assert out.cache is None
    assert list(out) == ["last_hidden_state"]


def test_a_cache_continues_where_it_stopped() -> None:
    model = make()
    prompt, mask = pad_rows([[40, 41, 42, 43], [44, 45]])
    whole = states(model, prompt, attention_mask=mask)
    cache = model.new_cache(2, capacity=1)
    first = states(model, prompt[:, :3], attention_mask=mask[:, :3], cache=cache)
    last = states(model, prompt[:, 3:], cache=cache)
    assert cache.length == 4
    assert cache.starts == (0, 2)
    torch.testing.assert_close(torch.cat((first, last), dim=1)[mask.bool()], whole[mask.bool()], **ROUNDING)
    # The same mask again, now over all positions, changes nothing.
    again = model.new_cache(2)
    states(model, prompt[:, :3], attention_mask=mask[:, :3], cache=again)
    assert torch.equal(states(model, prompt[:, 3:], attention_mask=mask, cache=again), last)


def test_a_prompt_in_pieces_may_begin_with_pieces_that_are_padding_for_some_rows() -> None:
    model = make()
    prompt, mask = pad_rows([[40, 41, 42, 43], [44]])
    cache = model.new_cache(2)
    pieces = [states(model, prompt[:, [place]], attention_mask=mask[:, : place + 1], cache=cache) for place in range(4)]
    assert cache.starts == (0, 3)
    torch.testing.assert_close(
        torch.cat(pieces, dim=1)[mask.bool()], states(model, prompt, attention_mask=mask)[mask.bool()], **ROUNDING
    )


def cache_of(model: ChameleonModel, rows: int, length: int = 2) -> KVCache:
    cache = model.new_cache(rows)
    states(model, torch.full((rows, length), 40), cache=cache)
    return cache


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either input_ids or inputs_embeds"),
        ({"input_ids": torch.tensor([[40]]), "inputs_embeds": torch.zeros(1, 1, 32)}, "not both"),
        ({"input_ids": torch.tensor([40])}, r"input_ids must be \[batch, length\]; got \[1\]"),
        ({"inputs_embeds": torch.zeros(1, 1, 31)}, r"inputs_embeds must be \[batch, length, 32\]; got \[1, 1, 31\]"),
        ({"attention_mask": torch.ones(1, 2)}, r"attention_mask must be \[1, 3\].*got \[1, 2\]"),
        ({"attention_mask": torch.ones(1, 1, 3, 4)}, r"of four dimensions must be .*got \[1, 1, 3, 4\]"),
        ({"attention_mask": torch.ones(1, 1, 3, 3, dtype=torch.int64)}, r"is torch.int64; expected bool"),
        ({"attention_mask": torch.ones(1, 3, 3)}, r"attention_mask must be \[1, 3\].*got \[1, 3, 3\]"),
        ({"position_ids": torch.tensor([0, 1, 2])}, r"position_ids must be \[1, 3\] or \[1, 3\]; got \[3\]"),
        ({"position_ids": torch.tensor([[0, 1]])}, r"position_ids must be .* got \[1, 2\]"),
        ({"document_ids": torch.tensor([[0, 0]])}, "document_ids"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, r"input_ids must be \[batch, length\]; got \[1, 0\]"),
    ],
)
def test_arguments_that_dont_fit_are_refused_with_their_shapes(arguments: dict[str, Any], message: str) -> None:
    if arguments and not {"input_ids", "inputs_embeds"} & set(arguments):
        arguments = {"input_ids": torch.tensor([[40, 41, 42]]), **arguments}
    with pytest.raises(ValueError, match=message):
        make()(**arguments)


def test_a_cache_of_other_rows_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="the cache holds 2 rows; the batch has 1"):
        model(ids([40]), cache=cache_of(model, rows=2))


def test_a_cache_remembers_padding_on_the_right_and_holes() -> None:
    model = make()
    prompt, mask = ids([40, 41, 42, 43], [44, 45, 46, 47]), ids([1, 1, 0, 0], [1, 0, 1, 1])
    cache = model.new_cache(2)
    states(model, prompt, attention_mask=mask, cache=cache)
    new = ids([50], [51])
    after = states(model, new, cache=cache)
    whole_mask = torch.cat((mask, torch.ones_like(new)), dim=1)
    whole = states(model, torch.cat((prompt, new), dim=1), attention_mask=whole_mask)
    torch.testing.assert_close(after, whole[:, -1:], **ROUNDING)


def test_a_mask_that_comes_later_hides_what_was_seen() -> None:
    model = make()
    prompt, new, mask = ids([40, 41, 42]), ids([43]), ids([0, 1, 1, 1])
    cache = model.new_cache(1)
    states(model, prompt, cache=cache)
    after = states(model, new, attention_mask=mask, cache=cache)
    # The keys of layer 2 have seen the first id, so that only the mask's effect can be compared.
    again = model.new_cache(1)
    states(model, prompt, cache=again)
    assert not torch.allclose(after, states(model, new, cache=again))
    changed = model.new_cache(1)
    states(model, prompt, cache=changed)
    states_of_first = changed.layer(0)
    states_of_first.keys[:, :, 0] = 7
    changed.layer(1).keys[:, :, 0] = 7
    assert torch.equal(states(model, new, attention_mask=mask, cache=changed), after)


def test_dropout_acts_in_training_only() -> None:
    model = make(make_config(attention_dropout=0.5))
    prompt = ids([40, 41, 42, 43])
    assert torch.equal(states(model, prompt), states(model, prompt))
    model.train()
    assert not torch.equal(states(model, prompt), states(model, prompt))


def test_an_interrupted_pass_leaves_the_cache_as_it_was() -> None:
    model = make()
    cache = cache_of(model, rows=1)
    handle = model.layers[1].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model(ids([50]), cache=cache)
    handle.remove()
    assert torch.equal(states(model, ids([51]), cache=cache), states(model, ids([51]), cache=cache_of(model, rows=1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hidden_states_have_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    assert states(make().to(dtype), ids([40, 41])).dtype == dtype
