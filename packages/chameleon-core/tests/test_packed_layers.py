"""Packed layers: passes over lanes give what the layers give, from the model's own memory, and what does more than its
weights say runs itself.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear, get_weight_quantizer
from chameleon_core.config import ChameleonConfig
from chameleon_core.model import ChameleonForConditionalGeneration, joined_weights, packed_layers
from chameleon_core.model.layers import Attention, FeedForward
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


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 11])
def test_any_number_of_lanes_gets_what_the_layers_give(count: int) -> None:
    model = randomized(CONFIG)

    def fed_together(packs: bool) -> Tensor:
        cache = model.new_lane_cache()
        if not packs:
            cache.packed = None
        lanes = [cache.add() for _ in range(count)]
        with torch.inference_mode():
            for number, lane in enumerate(lanes):
                model.feed_lanes([(lane, IDS[: 1 + number % 5])], cache)
            return model.feed_lanes([(lane, [number]) for number, lane in enumerate(lanes)], cache)

    hidden_LE = fed_together(packs=True)
    assert len(hidden_LE) == count
    torch.testing.assert_close(hidden_LE, fed_together(packs=False), rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize(
    "change",
    [change_the_scale, change_the_activation, change_an_epsilon],
    ids=lambda change: change.__name__,
)
def test_what_layers_compute_with_counts_too(change: Callable[[Model], None]) -> None:
    model = randomized(CONFIG)
    before = fed(model)
    change(model)
    assert is_packed(model)
    check_same(model)
    assert not torch.allclose(fed(model), before)


def test_layers_whose_norms_add_another_number_run_themselves() -> None:
    model = randomized(CONFIG)
    model.model.norm.epsilon = 3.0
    assert not is_packed(model)
    torch.testing.assert_close(fed(model), fed(model, packs=False))


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}, {"swin_norm": True}], ids=str)
def test_biases_and_norms_after_layers_run_themselves(changes: dict[str, object]) -> None:
    assert not is_packed(make_model(CONFIG.replace(**changes)))


def test_large_models_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_layers, "MAX_ELEMENTS", 1000)
    monkeypatch.setattr(joined_weights, "MAX_ELEMENTS", 1000)
    model = make_model(CONFIG)
    assert not is_packed(model)
    assert not is_joined(model)


def test_models_without_memory_are_not_packed() -> None:
    model = make_model(CONFIG).to("meta")
    assert not is_packed(model)
    model.to_empty(device="cpu").load_state_dict(make_model(CONFIG).state_dict())
    assert is_joined(model)
    torch.testing.assert_close(fed(model), fed(make_model(CONFIG)))


def joined(model: Model) -> list[tuple[list[Tensor], tuple[Tensor, ...]]]:
    """Return the weights of each group of each layer, with what products read of them."""
    groups = []
    for layer in model.model.layers:
        for part, names in (
            (layer.self_attn, Attention.QKV),
            (layer.self_attn, Attention.NORM_WEIGHTS),
            (layer.self_attn, Attention.NORM_BIASES),
            (layer.mlp, FeedForward.GATE_UP),
        ):
            groups.append(([part.get_parameter(name) for name in names], part.in_order(names)))
    return groups


def is_joined(model: Model) -> bool:
    return all(len(tensors) == 1 for _, tensors in joined(model))


def test_one_product_reads_the_memory_of_all_its_weights() -> None:
    model = randomized(CONFIG)
    assert len(joined(model)) == 8
    for weights, (whole,) in joined(model):
        assert whole.data_ptr() % 64 == 0
        assert torch.equal(whole, torch.cat([weight.detach() for weight in weights]))
        address = whole.data_ptr()
        for weight in weights:
            assert weight.data_ptr() == weight.untyped_storage().data_ptr() == address
            assert weight.untyped_storage().nbytes() == weight.nbytes
            assert weight.is_contiguous()
            address += weight.nbytes


def test_packed_layers_read_the_weights_themselves() -> None:
    model = randomized(CONFIG)
    packed = model.new_lane_cache().packed
    assert isinstance(packed, packed_layers.PackedLayers)
    for layer, own in zip(packed.layers, model.model.layers, strict=True):
        assert isinstance(layer, packed_layers.PackedLayer)
        pairs = [
            (layer.qkv[0], own.self_attn.q_proj.weight),
            (layer.out_OE, own.self_attn.o_proj.weight),
            (layer.gate_up[0], own.mlp.gate_proj.weight),
            (layer.down_FE, own.mlp.down_proj.weight),
        ]
        assert [read.data_ptr() for read, _ in pairs] == [weight.data_ptr() for _, weight in pairs]


def test_generating_changes_nothing_of_the_model() -> None:
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


@pytest.mark.parametrize("is_taken_before", [True, False])
def test_a_state_dict_stays_the_memory_of_the_weights(is_taken_before: bool) -> None:
    model = randomized(CONFIG)
    state = model.state_dict() if is_taken_before else {}
    before_ME = fed(model)
    state = state or model.state_dict()
    for name in ("q_proj", "v_proj", "k_norm"):
        state[f"model.layers.0.self_attn.{name}.weight"].mul_(2)
    state["model.layers.1.mlp.up_proj.weight"].mul_(2)
    assert not torch.allclose(fed(model), before_ME)
    check_same(model)


def test_files_hold_each_weight_alone(tmp_path: Path) -> None:
    model = randomized(CONFIG)
    # Cloned weights lie anywhere.
    apart = model.state_dict()
    for name, weight in list(apart.items()):
        apart[name] = weight.clone()
    save_file(apart, tmp_path / "apart.safetensors")
    save_file(model.state_dict(), tmp_path / "joined.safetensors")
    assert (tmp_path / "joined.safetensors").read_bytes() == (tmp_path / "apart.safetensors").read_bytes()
    save_model(model, str(tmp_path / "model.safetensors"))
    torch.save(model.state_dict(), tmp_path / "joined.pt")
    torch.save(apart, tmp_path / "clones.pt")  # a name as long, which the file holds for each storage
    assert (tmp_path / "joined.pt").stat().st_size == (tmp_path / "clones.pt").stat().st_size
    model.save_pretrained(tmp_path / "folder")
    for read in (
        load_file(tmp_path / "model.safetensors"),
        torch.load(tmp_path / "joined.pt", weights_only=True),
        Model.from_pretrained(tmp_path / "folder").state_dict(),
    ):
        assert read.keys() == apart.keys()
        assert all(torch.equal(read[name], weight) for name, weight in apart.items())


def test_a_loaded_model_is_joined_and_reads_what_was_saved(tmp_path: Path) -> None:
    model = randomized(CONFIG)
    model.save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path)
    assert is_joined(loaded)
    assert torch.equal(fed(loaded), fed(model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moved_weights_are_joined_again(dtype: torch.dtype) -> None:
    model = randomized(CONFIG)
    weight = model.model.layers[0].self_attn.k_proj.weight
    address = weight.data_ptr()
    model.to(torch.float32)
    assert weight.data_ptr() == address
    model.to(dtype)
    assert is_joined(model)
    assert fed(model).dtype == dtype
    model.float()
    assert is_joined(model)
    assert model.model.layers[0].self_attn.k_proj.weight is weight
    check_same(model)


def test_weights_in_shared_memory_stay_there() -> None:
    model = randomized(CONFIG)
    hidden_ME = fed(model)
    model.share_memory()
    assert all(weight.is_shared() for weight in model.parameters())
    torch.testing.assert_close(fed(model), hidden_ME)


def test_assigned_weights_stay_the_memory_of_whoever_gave_them() -> None:
    model, state = randomized(CONFIG), randomized(CONFIG.replace(rms_norm_eps=1e-4)).state_dict()
    model.load_state_dict(state, assign=True)
    before_ME = fed(model)
    assert is_packed(model)
    check_same(model)
    assert not is_joined(model)
    state["model.layers.1.self_attn.k_proj.weight"].mul_(-2)
    assert not torch.allclose(fed(model), before_ME)
    check_same(model)


def test_one_replaced_weight_is_read_from_where_it_is() -> None:
    model = randomized(CONFIG)
    before_ME = fed(model)
    k_proj = model.model.layers[0].self_attn.k_proj
    k_proj.weight.data = -k_proj.weight.data
    assert [len(tensors) for _, tensors in joined(model)] == [3, 1, 1, 1, 1, 1, 1, 1]
    assert not torch.allclose(fed(model), before_ME)
    check_same(model)


def test_tied_weights_stay_tied() -> None:
    model = randomized(CONFIG)
    for part in ("q_proj", "k_proj"):
        getattr(model.model.layers[1].self_attn, part).weight = model.model.layers[0].self_attn.q_proj.weight
    model.double().float()
    attention = model.model.layers[1].self_attn
    assert attention.q_proj.weight is attention.k_proj.weight is model.model.layers[0].self_attn.q_proj.weight
    check_same(model)


def test_gradients_are_those_of_weights_that_lie_apart() -> None:
    model, apart = randomized(CONFIG), randomized(CONFIG)
    apart.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()}, assign=True)
    ids_BT = torch.tensor([IDS])
    for each in (model, apart):
        fed(each)
        each(ids_BT, labels=ids_BT).loss.backward()
    for (name, weight), other in zip(model.named_parameters(), apart.parameters(), strict=True):
        assert weight.requires_grad, name
        assert weight.grad is not None
        assert weight.grad.is_contiguous()
        torch.testing.assert_close(weight.grad, other.grad)


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
def test_changed_weights_are_read(change: Callable[[Model], None]) -> None:
    model = randomized(CONFIG)
    before_ME = fed(model)
    change(model)
    assert not torch.allclose(fed(model), before_ME)
    check_same(model)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_of_a_model_have_memory_of_their_own(copied: Callable[[Model], Model]) -> None:
    model = randomized(CONFIG)
    before_ME = fed(model)
    other = copied(model)
    assert is_joined(other)
    change_in_place(other)
    check_same(other)
    assert not torch.allclose(fed(other), before_ME)
    assert torch.equal(fed(model), before_ME)


def test_a_shallow_copy_of_a_layer_leaves_the_weights_where_they_are() -> None:
    model = randomized(CONFIG)
    addresses = [weight.data_ptr() for weight in model.parameters()]
    model.model.layers[0].self_attn = copy.copy(model.model.layers[0].self_attn)
    assert [weight.data_ptr() for weight in model.parameters()] == addresses
    assert is_joined(model)


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
