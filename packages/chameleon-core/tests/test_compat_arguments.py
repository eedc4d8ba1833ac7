"""Arguments that ``transformers`` has: those with one effect here are refused with other values, and say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_backends import get_attention_backend
from chameleon_core import BitsAndBytesConfig, ChameleonForConditionalGeneration, ConfigError
from chameleon_core.compat.bitsandbytes import quantization_of
from chameleon_core.errors import ArgumentError, UnknownAttributeError
from chameleon_core.testing import make_model

IDS = torch.tensor([[0, 25, 26]])


@pytest.fixture(scope="module")
def model() -> ChameleonForConditionalGeneration:
    return make_model()


@pytest.fixture(scope="module")
def folder(model: ChameleonForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


LOADING: dict[str, tuple[Any, Any, str]] = {
    "_fast_init": (True, False, "never initialized"),
    "adapter_kwargs": ({}, {"revision": "main"}, "load_lora"),
    "adapter_name": ("default", "mine", "load_lora"),
    "allow_all_kernels": (False, True, "attn_implementation"),
    "device_mesh": (None, object(), "one process"),
    "disable_mmap": (False, True, "mapped from their files"),
    "distributed_config": (None, {"tp_size": 2}, "one process"),
    "experts_implementation": (None, "eager", "no experts"),
    "from_flax": (False, True, "safetensors"),
    "from_tf": (False, True, "safetensors"),
    "fusion_config": ({}, {"a": 1}, r"torch\.compile"),
    "gguf_file": (None, "a.gguf", ""),
    "ignore_mismatched_sizes": (False, True, "resize the model"),
    "kernel_config": (None, {"a": 1}, "attn_implementation"),
    "key_mapping": ({}, {"^a": "b"}, "write_checkpoint"),
    "low_cpu_mem_usage": (True, False, "never held twice"),
    "offload_buffers": (False, True, "nothing is offloaded"),
    "offload_folder": (None, "offload", "nothing is offloaded"),
    "offload_state_dict": (False, True, "nothing is offloaded"),
    "tp_plan": (None, "auto", "one process"),
    "tp_size": (None, 2, "one process"),
    "tqdm_class": (None, print, "no progress is shown"),
    "use_kernels": (False, True, "attn_implementation"),
    "use_safetensors": (True, False, "pickles"),
    "variant": (None, "fp16", "revision"),
    "weights_only": (True, False, "pickles"),
}
"""An argument of ``from_pretrained``, a value that is taken, one that isn't, and what to do instead."""


def test_arguments_of_loading_that_mean_what_happens_are_taken_together(folder: Path) -> None:
    taken = {name: taken for name, (taken, _, _) in LOADING.items() if name != "gguf_file"}
    loaded = ChameleonForConditionalGeneration.from_pretrained(folder, **taken)
    assert loaded(IDS).logits.shape == (1, 3, 64)


@pytest.mark.parametrize("name", sorted(set(LOADING) - {"gguf_file"}))
def test_an_argument_of_loading_with_another_value_says_what_to_do(folder: Path, name: str) -> None:
    _, other, instead = LOADING[name]
    with pytest.raises(ConfigError, match=rf"can't have {name}=.*{instead}"):
        ChameleonForConditionalGeneration.from_pretrained(folder, **{name: other})


SAVING: dict[str, tuple[Any, Any, str]] = {
    "distributed_checkpoint": (False, True, "one process"),
    "safe_serialization": (True, False, "may run code"),
    "save_original_format": (True, False, "the only one"),
    "save_peft_format": (True, False, "add_lora or peft"),
    "variant": (None, "fp16", "another folder"),
}
"""As above, of ``save_pretrained``."""


def test_arguments_of_saving_that_mean_what_happens_are_taken_together(
    model: ChameleonForConditionalGeneration, tmp_path: Path
) -> None:
    taken = {name: taken for name, (taken, _, _) in SAVING.items()}
    model.save_pretrained(save_directory=tmp_path, save_function=torch.save, push_to_hub=False, **taken)
    assert (tmp_path / "config.json").is_file()
    model.save_pretrained(tmp_path / "not", is_main_process=False)
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("name", sorted(SAVING))
def test_an_argument_of_saving_with_another_value_says_why(
    model: ChameleonForConditionalGeneration, tmp_path: Path, name: str
) -> None:
    _, other, why = SAVING[name]
    with pytest.raises(ConfigError, match=rf"can't have {name}=.*{why}"):
        model.save_pretrained(tmp_path, **{name: other})


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("cu_seq_lens_k", IDS, "document_ids"),
        ("cu_seq_lens_q", IDS, "document_ids"),
        ("encoder_attention_mask", IDS, "no encoder"),
        ("encoder_hidden_states", IDS, "no encoder"),
        ("head_mask", IDS, "o_proj"),
        ("max_length_k", 3, "document_ids"),
        ("max_length_q", 3, "document_ids"),
        ("mm_token_type_ids", IDS, "placeholders"),
        ("num_logits_to_keep", 1, "logits_to_keep"),
        ("output_router_logits", True, "no layer has experts"),
        ("token_type_ids", IDS, "no types"),
    ],
)
def test_arguments_of_a_call_that_have_no_use_are_refused_unless_they_are_none(
    model: ChameleonForConditionalGeneration, name: str, value: Any, instead: str
) -> None:
    for called in (model, model.model):
        with pytest.raises(ArgumentError, match=rf"can't use {name}: .*{instead}"):
            called(IDS, **{name: value})
        called(IDS, **{name: None})


GENERATION: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "assistant_confidence_threshold": ((0.4,), 0.9, "'draft'"),
    "assistant_early_exit": ((), 3, "'draft'"),
    "assistant_ensemble_weight": ((), 0.5, "'draft'"),
    "assistant_lookbehind": ((10,), 5, "'draft'"),
    "cache_config": (({},), {"nbits": 4}, "int8"),
    "compile_config": ((), {"mode": "default"}, "compile_decoding"),
    "constraints": (([],), [object()], "prefix_allowed_tokens_fn"),
    "continuous_batching_config": ((), {"a": 1}, r"chameleon_core\.Engine"),
    "decoder_start_token_id": ((), 2, "no encoder"),
    "disable_compile": ((True, False), 3, "compile_decoding"),
    "diversity_penalty": ((0.0, 0), 0.5, "num_return_sequences"),
    "dola_layers": ((), "high", "moved it out"),
    "encoder_no_repeat_ngram_size": ((0,), 3, "no_repeat_ngram_size"),
    "encoder_repetition_penalty": ((1.0, 1), 2.0, "repetition_penalty"),
    "force_words_ids": (([],), [[5]], "prefix_allowed_tokens_fn"),
    "is_assistant": ((False,), True, "'draft'"),
    "low_memory": ((False,), True, "moved it out"),
    "max_cache_len": ((), 64, "whole context"),
    "num_assistant_tokens": ((20,), 5, "'draft'"),
    "num_assistant_tokens_schedule": (("constant",), "heuristic", "'draft'"),
    "num_beam_groups": ((1,), 2, "num_return_sequences"),
    "penalty_alpha": ((0.0, 0), 0.6, "moved it out"),
    "remove_invalid_values": ((False,), True, "NaN"),
    "speculation_type": ((), "mtp", "'draft'"),
    "target_lookbehind": ((10,), 5, "'draft'"),
    "token_healing": ((False,), True, "where a token ends"),
    "use_mtp": ((False,), True, "one id at a time"),
}
"""A field of ``GenerationConfig``, the values that mean what happens, one that doesn't, and what to do instead."""


def test_fields_of_generation_that_mean_what_happens_are_taken(model: ChameleonForConditionalGeneration) -> None:
    expected = model.generate(IDS, max_new_tokens=2)
    for place in range(2):
        taken = {name: values[place] for name, (values, _, _) in GENERATION.items() if len(values) > place}
        assert torch.equal(
            model.generate(IDS, max_new_tokens=2, **taken, **dict.fromkeys(GENERATION.keys() - taken)), expected
        )


@pytest.mark.parametrize("name", sorted(GENERATION))
def test_a_field_of_generation_with_another_value_says_what_to_do(
    model: ChameleonForConditionalGeneration, name: str
) -> None:
    _, other, instead = GENERATION[name]
    for where in ({name: other}, {"generation_config": {name: other}}):
        with pytest.raises(ConfigError, match=rf"(?s){name}=.* isn't available: .*{instead}"):
            model.generate(IDS, max_new_tokens=2, **where)
    with pytest.raises(ConfigError, match=f"{name}=.* isn't available"):
        setattr(model.generation_config, name, other)


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("assistant_tokenizer", object(), "vocabulary of the model"),
        ("cache_position", IDS, "counted by themselves"),
        ("custom_generate", "user/repo", "your loop"),
        ("labels", IDS, "call the model with them"),
        ("logits_to_keep", 2, "only the logits that are needed"),
        ("mm_encoder_outputs", {"image": IDS}, "pixel_values"),
        ("synced_gpus", True, "one device"),
        ("token_type_ids", IDS, "one type of ids"),
        ("trust_remote_code", "yes", "no code"),
    ],
)
def test_arguments_of_generate_with_one_effect_are_refused_unless_they_mean_it(
    model: ChameleonForConditionalGeneration, name: str, value: Any, instead: str
) -> None:
    with pytest.raises(ArgumentError, match=f"can't use {name}=.*{instead}"):
        model.generate(IDS, max_new_tokens=1, **{name: value})
    model.generate(IDS, max_new_tokens=1, **{name: None})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("pad_token_id", "x", "must be ids, integers"),
        ("bos_token_id", 1.5, "must be ids, integers"),
        ("max_length", 9.0, "must be a number of ids"),
        ("num_beams", True, "must be an integer"),
        ("num_return_sequences", "2", "must be an integer"),
        ("use_cache", "no", "must be True or False"),
        ("output_scores", "yes", "must be True or False"),
        ("return_dict_in_generate", [], "must be True or False"),
        ("length_penalty", "1", "must be a number"),
        ("early_stopping", "soon", 'must be True, False or "never"'),
    ],
)
def test_fields_of_the_call_are_checked_where_they_are_given(
    model: ChameleonForConditionalGeneration, name: str, value: Any, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name} {expected}"):
        model.generate(IDS, max_new_tokens=1, **{name: value})
    before = model.generation_options
    with pytest.raises(ConfigError, match=f"{name} {expected}"):
        setattr(model.generation_config, name, value)
    assert model.generation_options == before


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_forced_ids_come_first_and_last(model: ChameleonForConditionalGeneration, name: str) -> None:
    written = model.generate(IDS[:, :1], max_new_tokens=3, **{name: 33})[0, 1:].tolist()
    assert written[0 if name == "forced_bos_token_id" else -1] == 33


@pytest.mark.parametrize(
    "decoding",
    ["plain", "jacobi", "lookup", {"name": "beam", "num_beams": 3}],
    ids=["plain", "jacobi", "lookup", "beam"],
)
def test_every_strategy_writes_the_same_without_a_cache(
    model: ChameleonForConditionalGeneration, decoding: str | dict[str, Any]
) -> None:
    asked = {"max_new_tokens": 6, "decoding": decoding, "no_repeat_ngram_size": 2}
    expected = model.generate(IDS, **asked)
    assert torch.equal(model.generate(IDS, use_cache=False, **asked), expected)


@pytest.mark.parametrize("decoding", ["jacobi", "lookup"])
def test_strategies_that_guess_change_nothing_that_is_asked_for(
    model: ChameleonForConditionalGeneration, decoding: str
) -> None:
    seen: list[int] = []

    class Streamer:
        def put(self, ids: torch.Tensor) -> None:
            seen.extend(ids.reshape(-1).tolist())

        def end(self) -> None:
            pass

    asked: dict[str, Any] = {
        "max_new_tokens": 6,
        "repetition_penalty": 1.5,
        "guidance_scale": 1.5,
        "logits_processor": [lambda ids, scores: scores.index_fill(-1, torch.tensor([30]), 5.0)],
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    expected = model.generate(IDS, **asked)
    found = model.generate(IDS, decoding=decoding, streamer=Streamer(), **asked)
    assert torch.equal(found.sequences, expected.sequences)
    assert seen == found.sequences[0].tolist()
    torch.testing.assert_close(found.scores, expected.scores)
    kept = model.generate(IDS, decoding=decoding, num_return_sequences=2, do_sample=True, seed=0, max_new_tokens=6)
    assert torch.equal(kept, model.generate(IDS, num_return_sequences=2, do_sample=True, seed=0, max_new_tokens=6))


def test_scores_are_logarithms_of_probabilities_where_that_is_asked(model: ChameleonForConditionalGeneration) -> None:
    asked = {"max_new_tokens": 2, "return_dict_in_generate": True, "output_scores": True}
    plain = model.generate(IDS, **asked).scores
    normalized = model.generate(IDS, renormalize_logits=True, **asked).scores
    torch.testing.assert_close(normalized[0], plain[0].log_softmax(dim=-1))


@pytest.mark.parametrize(
    ("method", "instead"),
    [("torchao", "'torchao'"), ("gptq", "int4"), ("awq", "int4"), ("hqq", "int4"), ("quanto", "int8"), ("fp8", "int8")],
)
def test_other_quantizers_of_transformers_name_what_replaces_them(method: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"asks for '{method}'.*{instead}"):
        quantization_of({"quant_method": method})


def test_a_field_that_a_configuration_of_quantization_lacks_is_not_assigned() -> None:
    config = BitsAndBytesConfig(load_in_4bit=True)
    config.bnb_4bit_quant_type = "nf4"
    with pytest.raises(ConfigError, match=r"no field 'bnb_4bit_quant_typ'\. Did you mean 'bnb_4bit_quant_type'"):
        config.bnb_4bit_quant_typ = "nf4"
    assert quantization_of(config).method == "bnb-nf4"


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("active_adapters", r"peft\.get_peft_model"),
        ("add_adapter", r"peft\.get_peft_model"),
        ("attn_implementation", "set_attn_implementation"),
        ("dequantize", "without quantization"),
        ("estimate_tokens", "count input_ids"),
        ("generate_batch", r"chameleon_core\.Engine"),
        ("get_compiled_call", r"torch\.compile"),
        ("get_placeholder_mask", r"config\.image_token_id"),
        ("heal_tokens", "where a token ends"),
        ("init_continuous_batching", r"chameleon_core\.Engine"),
        ("initialize_weights", "init_weights"),
        ("prune_heads", "o_proj"),
        ("set_decoder", r"model\.model"),
        ("set_encoder", "image_tokenizer"),
        ("set_use_kernels", "attention backend"),
        ("to_bettertransformer", "attention backend"),
        ("warn_if_padding_and_no_attention_mask", "InputWarning"),
    ],
)
def test_methods_that_models_here_lack_name_what_replaces_them(
    model: ChameleonForConditionalGeneration, name: str, instead: str
) -> None:
    assert not hasattr(model, name)
    with pytest.raises(UnknownAttributeError, match=f"no attribute '{name}': .*{instead}"):
        getattr(model, name)


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("base_model", torch.nn.Linear(1, 1), r"parts of model\.model"),
        ("device", "cpu", r"model\.to\(device\)"),
        ("dtype", torch.float16, r"model\.to\(dtype\)"),
        ("pad_token_id", 3, r"generation_config\.pad_token_id"),
        ("vocab_size", 3, "resize_token_embeddings"),
        ("vqmodel", torch.nn.Linear(1, 1), "image_tokenizer"),
        ("layout", None, "follows from the model's parts"),
        ("loss_type", "MaskedLM", "loss_function"),
        ("output_modalities", ("image",), "modality="),
        ("supports_gradient_checkpointing", False, "gradient_checkpointing_enable"),
    ],
)
def test_what_follows_from_other_attributes_is_not_assigned(
    model: ChameleonForConditionalGeneration, name: str, value: Any, instead: str
) -> None:
    with pytest.raises(UnknownAttributeError, match=f"{name} can't be assigned: .*{instead}"):
        setattr(model, name, value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("config", 5, "a ChameleonConfig; got a int"),
        ("config", {"hidden_size": 32}, "a ChameleonConfig; got a dict"),
        ("extra_weights", 5, "must be a Mapping"),
        ("generation_options", {"top_k": 3}, "must be a GenerationOptions"),
        ("image_tokenizer", 5, "is a int; expected an ImageTokenizer"),
        ("loss_function", 5, "a function of logits and labels"),
        ("masks_picture_codes", "yes", "must be a bool; got 'yes'"),
        ("model_tags", 5, "must be a list or NoneType"),
        ("source", 5, "must be a folder or None; got 5"),
        ("training", "yes", "must be a bool"),
    ],
)
def test_an_attribute_is_checked_where_it_is_assigned(
    model: ChameleonForConditionalGeneration, name: str, value: Any, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        setattr(model, name, value)


def test_an_attention_backend_may_be_assigned_and_nothing_else(model: ChameleonForConditionalGeneration) -> None:
    ids_BT = torch.tensor([[0, 5, 7, 9]])
    expected = model(ids_BT).logits
    model.model.attention_backend = get_attention_backend("eager")
    torch.testing.assert_close(model(ids_BT).logits, expected)
    with pytest.raises(ConfigError, match="attention_backend must be a AttentionBackend; got 'eager'"):
        model.model.attention_backend = "eager"


def test_the_folder_of_a_model_may_be_assigned_as_text(model: ChameleonForConditionalGeneration) -> None:
    model.source = "somewhere"
    assert model.source == model.model.source == Path("somewhere")
