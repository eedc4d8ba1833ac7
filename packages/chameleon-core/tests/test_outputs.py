"""What models return, and the caches and masks that they are called with, as in ``transformers``."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from chameleon_core import CausalOutput
from chameleon_core.errors import ArgumentError, InputError
from chameleon_core.testing import make_config, make_model

IDS = torch.tensor([[40, 41, 42, 43], [44, 45, 46, 47]])
NEW = torch.tensor([[50], [51]])
LEFT = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
HOLES = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class GrowingCache:
    """A cache of the form that ``transformers`` has, keys and values [B, K, S, D]."""

    def __init__(self) -> None:
        self.states: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        if layer_idx in self.states:
            old_keys, old_values = self.states[layer_idx]
            keys, values = torch.cat((old_keys, keys), dim=2), torch.cat((old_values, values), dim=2)
        self.states[layer_idx] = (keys, values)
        return keys, values

    def get_seq_length(self) -> int:
        return self.states[0][0].shape[2] if self.states else 0


def with_new(mask: Tensor) -> Tensor:
    return torch.cat((mask, torch.ones_like(NEW)), dim=1)


def test_an_output_is_read_by_attribute_key_index_and_as_a_tuple() -> None:
    output = make_model()(IDS, labels=IDS)
    assert list(output) == ["loss", "logits", "past_key_values"]
    assert output[0] is output.loss is output["loss"]
    assert output[:2] == (output.loss, output.logits)
    assert output.to_tuple()[2] is output.past_key_values is output.cache
    assert output.hidden_states is None
    assert output.get("attentions") is None
    assert isinstance(output, dict)
    with pytest.raises(AttributeError, match="has no attribute 'logit'"):
        _ = output.logit
    with pytest.raises(KeyError):
        _ = output["attentions"]


def test_values_of_an_output_are_replaced_and_never_taken() -> None:
    output = make_model()(IDS, use_cache=False)
    output.loss = torch.zeros(())
    output["logits"] = output.logits + 1
    assert output.keys() == {"loss", "logits"}
    for wrong in (lambda: output.pop("loss"), lambda: output.update(a=1), lambda: output.__delitem__("loss")):
        with pytest.raises(TypeError, match="nothing can be taken"):
            wrong()
    with pytest.raises(AttributeError, match="has no field 'logit'"):
        output.logit = 1


def test_outputs_are_pytrees_and_are_copied_and_pickled() -> None:
    with torch.no_grad():
        output = make_model()(IDS, use_cache=False, output_hidden_states=True)
    doubled = pytree.tree_map(lambda each: 2 * each, output)
    assert isinstance(doubled, CausalOutput)
    assert torch.equal(doubled.hidden_states[1], 2 * output.hidden_states[1])
    for other in (copy.copy(output), copy.deepcopy(output), pickle.loads(pickle.dumps(output)), CausalOutput(output)):
        assert type(other) is CausalOutput
        assert torch.equal(other.logits, output.logits)


def test_a_tuple_is_returned_where_no_mapping_is_wanted() -> None:
    model = make_model()
    logits, cache = model(IDS, return_dict=False)
    assert torch.equal(logits, model(IDS).logits)
    assert cache.get_seq_length() == 4
    assert type(model.model(IDS, return_dict=False, use_cache=False)) is tuple
    quiet = make_model(make_config(extras={"return_dict": False, "output_hidden_states": True}, use_cache=False))
    assert len(quiet(IDS)) == 2


@pytest.mark.parametrize("mask", [None, LEFT, HOLES, LEFT.flip(1)], ids=["no mask", "left", "holes", "right"])
def test_a_cache_that_a_call_made_continues_it(mask: Tensor | None) -> None:
    model = make_model()
    cache = model(IDS, attention_mask=mask).past_key_values
    whole_mask = None if mask is None else with_new(mask)
    expected = model(torch.cat((IDS, NEW), dim=1), attention_mask=whole_mask).logits[:, -1:]
    found = model(NEW, past_key_values=cache, attention_mask=whole_mask)
    torch.testing.assert_close(found.logits, expected, **CLOSE)
    assert found.past_key_values is cache
    cache.crop(-1)
    torch.testing.assert_close(model(NEW, past_key_values=cache).logits, expected, **CLOSE)  # it remembers the mask
    assert [tuple(layer.keys.shape) for layer in cache] == [(2, 4, 5, 8)] * 2


def test_rows_of_a_cache_are_chosen_and_repeated() -> None:
    model = make_model()
    cache = model(IDS, attention_mask=HOLES).past_key_values
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 3]))
    mask = with_new(HOLES.flip(0))
    expected = model(torch.cat((IDS.flip(0), NEW), dim=1), attention_mask=mask).logits[:, -1:]
    torch.testing.assert_close(model(NEW, past_key_values=cache).logits, expected, **CLOSE)
    with pytest.raises(InputError, match="tokens_to_remove must be from -5 to 0"):
        cache.crop(2)
    cache.reset()
    torch.testing.assert_close(model(IDS, past_key_values=cache).logits, model(IDS).logits, **CLOSE)


def test_a_cache_of_another_library_is_filled_and_used() -> None:
    model, cache = make_model(), GrowingCache()
    first = model(IDS, attention_mask=LEFT, past_key_values=cache)
    assert first.past_key_values is cache
    mask = with_new(LEFT)
    found = model(NEW, attention_mask=mask, past_key_values=cache).logits
    expected = model(torch.cat((IDS, NEW), dim=1), attention_mask=mask).logits[:, -1:]
    torch.testing.assert_close(found, expected, **CLOSE)
    with pytest.raises(InputError, match="past_key_values is a list; expected"):
        model(NEW, past_key_values=[])


@pytest.mark.parametrize("backend", ["eager", "sdpa", "flash", "flex"])
def test_any_mask_works_with_every_backend(backend: str) -> None:
    model = make_model(make_config(num_key_value_heads=2), attn_implementation=backend)
    full = torch.ones(4, 4).tril().bool()[None, None] & HOLES[:, None, None].bool()
    added = torch.zeros(full.shape).masked_fill(~full, torch.finfo(torch.float32).min)
    with torch.no_grad():
        by_holes = model(IDS, attention_mask=HOLES).logits[HOLES.bool()]
        for mask in (full, full.expand(-1, 4, -1, -1), added, added.masked_fill(~full, -torch.inf)):
            torch.testing.assert_close(model(IDS, attention_mask=mask).logits[HOLES.bool()], by_holes, **CLOSE)
        by_sdpa = make_model(make_config(num_key_value_heads=2))
        without = by_sdpa(IDS[:1, [0, 2, 3]], position_ids=torch.tensor([[0, 2, 3]])).logits
    torch.testing.assert_close(by_holes[:3], without[0], **CLOSE)


def test_the_output_depends_on_the_attention_weights_that_are_returned() -> None:
    model = make_model(attn_implementation="eager")
    output = model(IDS, attention_mask=HOLES, output_attentions=True, output_hidden_states=True)
    kept = [*output.attentions, *output.hidden_states]
    for tensor in kept:
        tensor.retain_grad()
    output.logits.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in kept)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"banana": 1}, ArgumentError, "no argument 'banana'"),
        ({"past_key_value": None}, ArgumentError, "Did you mean 'past_key_values'"),
        ({"head_mask": torch.ones(1)}, ArgumentError, "can't use head_mask: no head can be masked"),
        ({"cache_position": torch.tensor([1, 2, 3, 4])}, InputError, r"cache_position is \[1, 2, 3, 4\]"),
        ({"pixel_values": HOLES}, InputError, "pass attention_mask by its name"),
        ({"mm_encoder_outputs": {"video": 1}}, InputError, "mm_encoder_outputs must be"),
        ({"num_items_in_batch": 3}, InputError, "pass labels, too"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_arguments_without_a_use_are_refused(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make_model()(IDS, **arguments)


def test_arguments_that_say_what_happens_anyway_are_taken() -> None:
    model = make_model()
    found = model(IDS, head_mask=None, cache_position=torch.arange(4), num_items_in_batch=None, use_cache=True)
    assert torch.equal(found.logits, model(IDS).logits)


def test_the_loss_is_divided_by_the_items_of_all_batches() -> None:
    model = make_model()
    mean = model(IDS, labels=IDS).loss
    torch.testing.assert_close(model(IDS, labels=IDS, num_items_in_batch=12).loss, mean / 2)
    shifted = torch.nn.functional.pad(IDS[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(IDS, shift_labels=shifted).loss, mean)


@pytest.mark.parametrize("mask", [LEFT, HOLES], ids=["left", "holes"])
def test_a_call_with_a_mask_is_one_graph(mask: Tensor) -> None:
    model = make_model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        found = compiled(IDS, attention_mask=mask)
        expected = model(IDS, attention_mask=mask)
    torch.testing.assert_close(found.logits[mask.bool()], expected.logits[mask.bool()], **CLOSE)


@pytest.mark.parametrize("masked", [True, False])
def test_a_model_is_exported_for_any_number_of_rows_and_any_length(masked: bool) -> None:
    model = make_model()
    inputs = {"input_ids": IDS, **({"attention_mask": LEFT} if masked else {})}
    any_shape = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length")}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, any_shape)).module()
    for rows, length in ((2, 6), (5, 3), (1, 9)):
        ids = torch.arange(4, 4 + rows * length).reshape(rows, length)
        mask = torch.ones_like(ids)
        mask[0, 0] = 0 if masked else 1
        call = {"input_ids": ids, **({"attention_mask": mask} if masked else {})}
        with torch.no_grad():
            found, expected = exported(**call).logits, model(**call).logits
        torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], **CLOSE)
