"""The methods that users of ``transformers`` know."""

from __future__ import annotations

import pytest
import torch

from chameleon_core import ChameleonForConditionalGeneration, ChameleonModel, ConfigError
from chameleon_core.errors import ArgumentError, UnknownAttributeError
from chameleon_core.testing import make_config, make_model

IDS = torch.tensor([[40, 41, 42]])


def test_weights_are_tied_only_where_the_config_says_so() -> None:
    model = make_model()
    before = model(IDS).logits
    model.tie_weights()
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert torch.equal(model(IDS).logits, before)
    tied = make_model(make_config(tie_word_embeddings=True))
    tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.clone())
    tied.tie_weights()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_embeddings_are_set_where_they_are() -> None:
    model = make_model()
    embeddings, head = torch.nn.Embedding(64, 32), torch.nn.Linear(32, 64, bias=False)
    model.set_input_embeddings(embeddings)
    model.set_output_embeddings(head)
    assert model.model.embed_tokens is embeddings is model.get_input_embeddings()
    assert model.lm_head is head is model.get_output_embeddings()
    bare = ChameleonModel(make_config())
    bare.set_input_embeddings(embeddings)
    assert bare.embed_tokens is embeddings
    assert bare.get_output_embeddings() is None
    with pytest.raises(ConfigError, match="ChameleonModel has no output layer"):
        bare.set_output_embeddings(head)


def gradient(model: ChameleonForConditionalGeneration) -> torch.Tensor:
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()
    found = model.model.layers[0].mlp.up_proj.weight.grad
    assert found is not None
    return found.clone()


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = make_model().train()
    expected = gradient(model)
    for options in ({}, {"every_n_layers": 2}, {"gradient_checkpointing_kwargs": {"use_reentrant": True}}):
        model.gradient_checkpointing_enable(**options)
        assert model.is_gradient_checkpointing
        assert model.model.gradient_checkpointing
        assert model(IDS).past_key_values is None
        torch.testing.assert_close(gradient(model), expected)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing = True
    torch.testing.assert_close(gradient(model), expected)


def test_wrong_options_of_gradient_checkpointing_are_refused() -> None:
    model = make_model()
    with pytest.raises(ArgumentError, match="no option 'reentrant'"):
        model.gradient_checkpointing_enable({"reentrant": True})
    with pytest.raises(ConfigError, match="every_n_layers must be an integer ≥ 1"):
        model.gradient_checkpointing_enable(every_n_layers=0)
    with pytest.raises(ConfigError, match="offload=True isn't available"):
        model.gradient_checkpointing_enable(offload=True)
    with pytest.raises(ConfigError, match="True or False"):
        model.gradient_checkpointing = "yes"


def test_gradients_reach_frozen_embeddings_where_that_is_enabled() -> None:
    model = make_model().requires_grad_(False)
    model.enable_input_require_grads()
    assert model(IDS).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(IDS).logits.requires_grad


def test_parameters_are_counted() -> None:
    model = make_model()
    total = sum(each.numel() for each in model.parameters())
    assert model.num_parameters() == total
    assert model.num_parameters(exclude_embeddings=True) == total - 64 * 32
    model.lm_head.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == total - 64 * 32
    assert model.get_memory_footprint() == 4 * total


@pytest.mark.parametrize("kind", ["bare", "with a head"])
def test_attributes_that_would_do_nothing_are_refused(kind: str) -> None:
    model = ChameleonModel(make_config()) if kind == "bare" else make_model()
    with pytest.raises(UnknownAttributeError, match=r"no attribute 'gradient_checkpoint'.*'gradient_checkpointing'"):
        model.gradient_checkpoint = True
    with pytest.raises(UnknownAttributeError, match="A subclass may have attributes of its own"):
        model.zzz = 1
    with pytest.raises(AttributeError, match=r"load_adapter.*PeftModel\.from_pretrained"):
        _ = model.load_adapter
    assert not hasattr(model, "load_adapter")


def test_libraries_and_subclasses_set_what_they_need() -> None:
    class Mine(ChameleonForConditionalGeneration):
        def __init__(self) -> None:
            super().__init__(make_config())
            self.scale = 2

    assert Mine().scale == 2
    model = make_model()
    model.hf_device_map = {"": 0}
    model.peft_config = {}
    model.is_parallelizable = True
    model._hf_hook = object()
    model.value_head = torch.nn.Linear(32, 1)
    model.forward = model.forward
    assert dict(model.named_children()).keys() == {"model", "lm_head", "value_head"}


def test_another_attention_backend_is_set_by_name() -> None:
    model = make_model()
    model.set_attn_implementation("eager")
    assert model(IDS, output_attentions=True).attentions is not None
    assert model.model.attn_implementation == "eager"


def test_a_step_is_fed_what_is_new() -> None:
    inputs = make_model().prepare_inputs_for_generation(
        IDS, next_sequence_length=1, attention_mask=torch.ones_like(IDS), pixel_values=torch.ones(1), labels=IDS
    )
    assert inputs.keys() == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].tolist() == [[42]]


def test_names_that_users_know() -> None:
    model = make_model()
    bare = model.model
    assert model.can_generate()
    assert not bare.can_generate()
    assert model.base_model is bare is bare.base_model is model.get_decoder()
    assert model.get_encoder() is model
    assert model.vocabulary_mapping.image_tokens == sorted(model.layout.picture_ids)
    assert model.vocab_size == 64
    assert model.name_or_path == ""
    assert model.get_parameter_or_buffer("lm_head.weight") is model.lm_head.weight
    model.add_model_tags("a")
    model.add_model_tags(["a", "b"])
    assert model.model_tags == ["a", "b"]
    before = model.lm_head.weight.clone()
    model.init_weights()
    assert not torch.equal(before, model.lm_head.weight)
    model.loss_function = lambda logits, labels, vocab_size: logits.sum() * 0 + vocab_size
    assert model(IDS, labels=IDS).loss.item() == 64
    assert ChameleonForConditionalGeneration(make_config()).training
