"""Packed layers: passes over lanes give what the layers give, the model itself stays as it was, and what can't be
copied runs itself.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear, get_weight_quantizer
from chameleon_core.config import ChameleonConfig
from chameleon_core.model import ChameleonForConditionalGeneration, packed_layers
from chameleon_core.testing import make_config, make_model

CONFIG = make_config()
IDS = [5, 9, 40, 7, 11]

Model = ChameleonForConditionalGeneration


def fed(model: Model, *, packs: bool = True) -> Tensor:
    """Return the hidden states of lanes of different lengths, of which one is fed three times."""
    cache = model.new_lane_cache()
    if not packs:
        cache.packed = None
    one, other = cache.add(), cache.add()
    with torch.inference_mode():
        first_ME = model.feed_lanes([(one, IDS)], cache)
        second_ME = model.feed_lanes([(one, IDS[:1]), (other, IDS[1:])], cache)
        return torch.cat((first_ME, second_ME, model.feed_lanes([(one, [3]), (other, [4])], cache)))


def check_same(model: Model) -> None:
    torch.testing.assert_close(fed(model), fed(model, packs=False), rtol=1e-5, atol=1e-5)


def is_packed(model: Model) -> bool:
    return model.new_lane_cache().packed is not None


def randomized(config: ChameleonConfig) -> Model:
    """Return a model whose norms have weights of their own, too."""
    model = make_model(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": False},
        {"num_attention_heads": 4, "num_key_value_heads": 2},
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 0.5},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    ],
    ids=str,
)
def test_packed_layers_give_what_the_layers_give(changes: dict[str, object]) -> None:
    model = randomized(CONFIG.replace(**changes))
    assert is_packed(model)
    check_same(model)


def double_its_output(module: nn.Module, arguments: object, out: Tensor) -> Tensor:
    return 2 * out


def hook(model: Model) -> None:
    model.model.layers[0].self_attn.k_proj.register_forward_hook(double_its_output)


def hook_the_model(model: Model) -> None:
    model.model.register_forward_pre_hook(lambda module, arguments: None)


def wrap(model: Model) -> None:
    mlp = model.model.layers[0].mlp
    mlp.up_proj = nn.Sequential(mlp.up_proj, nn.Tanh())


def adapt(model: Model) -> None:
    class Adapted(nn.Linear):
        def forward(self, hidden_BTE: Tensor) -> Tensor:
            return super().forward(hidden_BTE) + hidden_BTE.sum()

    attention = model.model.layers[1].self_attn
    adapted = Adapted(attention.q_proj.in_features, attention.q_proj.out_features, bias=False)
    adapted.weight = attention.q_proj.weight
    attention.q_proj = adapted


def replace_forward(model: Model) -> None:
    norm = model.model.norm
    plain = norm.forward
    norm.forward = lambda hidden_BTE: 2 * plain(hidden_BTE)  # type: ignore[method-assign]


def train(model: Model) -> None:
    model.train()


def round_to_bfloat16(model: Model) -> None:
    model.bfloat16()


def quantize(model: Model) -> None:
    mlp = model.model.layers[1].mlp
    mlp.down_proj = QuantizedLinear.from_linear(mlp.down_proj, get_weight_quantizer("int8"))


CHANGES = [hook_the_model, replace_forward, train, round_to_bfloat16]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_models_that_do_more_than_their_weights_say_run_themselves(change: Callable[[Model], None]) -> None:
    model = randomized(CONFIG)
    assert is_packed(model)
    change(model)
    assert not is_packed(model)
    torch.testing.assert_close(fed(model), fed(model, packs=False))


@pytest.mark.parametrize("change", [hook, wrap, adapt, quantize], ids=lambda change: change.__name__)
def test_a_layer_that_does_more_than_its_weights_say_runs_itself_alone(change: Callable[[Model], None]) -> None:
    model = randomized(CONFIG)
    before = fed(model)
    change(model)
    packed = model.new_lane_cache().packed
    assert isinstance(packed, packed_layers.PackedLayers)
    assert [type(layer).__name__ for layer in packed.layers].count("PackedLayer") == len(packed.layers) - 1
    check_same(model)
    assert not torch.equal(fed(model), before)


@pytest.mark.parametrize("change", [hook, wrap, adapt], ids=lambda change: change.__name__)
def test_a_layer_that_runs_itself_is_the_one_of_now(change: Callable[[Model], None]) -> None:
    model = randomized(CONFIG)
    change(model)
    fed(model)
    for index in (0, 1):
        other = randomized(CONFIG).model.layers[index]
        other.mlp.down_proj = nn.Sequential(other.mlp.down_proj, nn.Tanh())
        model.model.layers[index] = other
    check_same(model)


def change_the_scale(model: Model) -> None:
    model.model.layers[0].self_attn.scale = 2.0


def change_the_activation(model: Model) -> None:
    model.model.layers[0].mlp.activation = torch.tanh


def change_an_epsilon(model: Model) -> None:
    model.model.layers[1].input_layernorm.epsilon = 3.0


def change_the_last_epsilon(model: Model) -> None:
    model.model.norm.epsilon = 3.0


@pytest.mark.parametrize(
    "change",
    [change_the_scale, change_the_activation, change_an_epsilon, change_the_last_epsilon],
    ids=lambda change: change.__name__,
)
def test_what_layers_compute_with_counts_too(change: Callable[[Model], None]) -> None:
    model = randomized(CONFIG)
    before = fed(model)
    change(model)
    assert is_packed(model)
    check_same(model)
    assert not torch.allclose(fed(model), before)


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}, {"swin_norm": True}], ids=str)
def test_biases_and_norms_after_layers_run_themselves(changes: dict[str, object]) -> None:
    assert not is_packed(make_model(CONFIG.replace(**changes)))


def test_large_models_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_layers, "MAX_ELEMENTS", 1000)
    assert not is_packed(make_model(CONFIG))


def test_models_without_memory_are_not_copied() -> None:
    assert not is_packed(make_model(CONFIG).to("meta"))


def test_nothing_of_the_model_changes() -> None:
    model = randomized(CONFIG)
    before = {name: (weight, weight.data_ptr(), weight.clone()) for name, weight in model.named_parameters()}
    fed(model)
    for name, weight in model.named_parameters():
        same, address, values = before[name]
        assert weight is same
        assert weight.data_ptr() == address
        assert weight.is_contiguous()
        assert torch.equal(weight, values)
    assert set(model.state_dict()) == set(make_model(CONFIG).state_dict())


def test_copies_are_made_once() -> None:
    model = make_model(CONFIG)
    assert model.new_lane_cache().packed is model.new_lane_cache().packed


def change_in_place(model: Model) -> None:
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0] += 1


def change_without_a_trace(model: Model) -> None:
    model.model.layers[1].self_attn.v_proj.weight.data[0, 0] += 1


def change_a_norm(model: Model) -> None:
    model.model.norm.weight.data *= 2


def load_others(model: Model) -> None:
    model.load_state_dict(randomized(CONFIG).state_dict())


def load_others_in_place_of(model: Model) -> None:
    model.load_state_dict(randomized(CONFIG).state_dict(), assign=True)


def train_a_step(model: Model) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ids_BT = torch.tensor([IDS])
    model.train()(ids_BT, labels=ids_BT).loss.backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize(
    "change",
    [change_in_place, change_without_a_trace, change_a_norm, load_others, load_others_in_place_of, train_a_step],
    ids=lambda change: change.__name__,
)
def test_changed_weights_are_copied_again(change: Callable[[Model], None]) -> None:
    model = randomized(CONFIG)
    before_ME = fed(model)
    change(model)
    assert not torch.allclose(fed(model), before_ME)
    check_same(model)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_of_a_model_have_copies_of_their_own(copied: Callable[[Model], Model]) -> None:
    model = randomized(CONFIG)
    before_ME = fed(model)
    other = copied(model)
    assert other.model._packer._kept is None
    change_in_place(other)
    check_same(other)
    assert torch.equal(fed(model), before_ME)


def test_passes_with_gradients_or_autocast_run_the_layers() -> None:
    model = make_model(CONFIG)
    cache = model.new_lane_cache()
    hidden_ME = model.feed_lanes([(cache.add(), IDS)], cache)
    assert hidden_ME.requires_grad
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        model.feed_lanes([(cache.add(), IDS)], cache)


def test_a_cache_serves_on_after_its_model_was_rounded() -> None:
    model = make_model(CONFIG)
    cache = model.new_lane_cache()
    model.bfloat16()
    with torch.inference_mode():
        assert model.feed_lanes([(cache.add(), IDS)], cache).dtype == torch.bfloat16


def test_threads_pack_and_generate_at_the_same_time() -> None:
    model = randomized(CONFIG)
    expected_ME = fed(model, packs=False)
    with ThreadPoolExecutor(4) as pool:
        for hidden_ME in pool.map(lambda _: fed(model), range(16)):
            torch.testing.assert_close(hidden_ME, expected_ME, rtol=1e-5, atol=1e-5)
