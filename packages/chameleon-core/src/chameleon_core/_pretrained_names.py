# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""What ``transformers`` gives every configuration, and what of it is kept, has one value, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import ConfigError

RECORDS: Mapping[str, Any] = {
    "_name_or_path": "",
    "architectures": None,
    "dtype": None,
    "id2label": None,
    "label2id": None,
    "name_or_path": "",
    "num_labels": 2,
    "problem_type": None,
    "task_specific_params": None,
    "tokenizer_class": None,
    "transformers_version": None,
}
"""What every configuration of ``transformers`` has and that is kept without changing anything, with its default."""
ONLY: Mapping[str, tuple[Any, str]] = {
    "_attn_implementation": (None, "pass attn_implementation to the model or to its from_pretrained"),
    "add_cross_attention": (False, "the model has no encoder to attend to"),
    "chunk_size_feed_forward": (0, "the feed-forward layer isn't cut"),
    "is_decoder": (False, "the model is a decoder in any case"),
    "is_encoder_decoder": (False, "the model has no encoder"),
    "output_attentions": (False, "pass output_attentions=True to the model's call"),
    "output_hidden_states": (False, "pass output_hidden_states=True to the model's call"),
    "return_dict": (True, "pass return_dict=False to the model's call"),
    "tie_encoder_decoder": (False, "the model has no encoder"),
    "torchscript": (False, "use torch.export or torch.compile"),
    "use_bfloat16": (False, "use dtype='bfloat16'"),
}
"""What has one possible value here, and what to do instead of another."""
NAMES = {
    "attn_implementation": "_attn_implementation",
    "torch_dtype": "dtype",
    "use_return_dict": "return_dict",
    "_output_attentions": "output_attentions",
}
"""Second names of these."""
INSTEAD: Mapping[str, str] = {
    "get_mtp_config": "the model predicts one id at a time",
    "register_for_auto_class": "the class is found in its package, not by an auto class",
    "sub_configs": "the configuration of the image tokenizer is vq_config of a model's",
}
"""What ``transformers``' configurations have and those here don't, and what to do, as a clause of an error."""
OF_GENERATION: Mapping[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "diversity_penalty": 0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "length_penalty": 1,
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_scores": False,
    "remove_invalid_values": False,
    "repetition_penalty": 1,
    "return_dict_in_generate": False,
    "suppress_tokens": None,
    "temperature": 1,
    "top_k": 50,
    "top_p": 1,
    "typical_p": 1,
}
"""Options of generation, which old releases of ``transformers`` wrote into every configuration, with their defaults."""
# fmt: off
WRITTEN = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_experts_implementation", "attn_implementation", "auto_map", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "finetuning_task", "model_type", "prefix", "pruned_heads",
    "return_dict", "sep_token_id", "tf_legacy_loss", "torch_dtype",
})
# fmt: on
"""What releases of ``transformers`` write beside ``RECORDS`` and ``ONLY``, and what changes nothing here."""


def as_kind(name: str, text: str, old: Any) -> Any:
    """Return a text as a value of the kind that a field has. Raises ``ConfigError``."""
    if isinstance(old, bool):
        if text.lower() in ("true", "1", "y", "yes", "false", "0", "n", "no"):
            return text.lower() in ("true", "1", "y", "yes")
    elif isinstance(old, int | float):
        try:
            return type(old)(text)
        except ValueError:
            pass  # said below
    elif isinstance(old, str):
        return text
    else:
        raise ConfigError(f"update_from_string changes numbers, bools and texts; {name} is {old!r:.80}: assign it.")
    raise ConfigError(f"update_from_string: {name} must be a {type(old).__name__}; got {text!r:.80}.")


def as_dtype(name: Any) -> Any:
    """Return the dtype of torch that a file names; a dtype and None are themselves."""
    if not isinstance(name, str):
        return name
    import torch

    return getattr(torch, name.removeprefix("torch."), name)
