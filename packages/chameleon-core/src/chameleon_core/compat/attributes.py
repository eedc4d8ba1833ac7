"""Which attributes a model takes: those that do something, and those that the libraries around it set.

What would be accepted and then ignored is refused; what ``transformers``' models have and those here don't is told.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import ConfigError, UnknownAttributeError

SET_BY_LIBRARIES = frozenset(
    {
        "adapter_layer_names",
        "cast_input_dtype_enabled",
        "current_adapter",
        "forward",
        "generate",
        "hf_device_map",
        "hf_quantizer",
        "hf_split_points",
        "is_loaded_in_4bit",
        "is_loaded_in_8bit",
        "is_quantized",
        "peft_config",
        "peft_type",
        "prepare_inputs_for_generation",
        "quantization_method",
        "require_backward_grad_sync",
        "require_forward_param_sync",
        "tune_metadata",
    }
)
"""What accelerate, peft, trainers and torch's own parts set on any model, and read again themselves."""

INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "attn_implementation": "use set_attn_implementation(name); config._attn_implementation is the name.",
        "active_adapters": "use peft.get_peft_model(model, config), and its active_adapter.",
        "add_adapter": "use peft.get_peft_model(model, config).",
        "delete_adapter": "use peft.get_peft_model(model, config), and its delete_adapter.",
        "disable_adapters": "use peft.get_peft_model(model, config), and its disable_adapter().",
        "enable_adapters": "use peft.get_peft_model(model, config), and its enable_adapter_layers().",
        "load_adapter": "use peft.PeftModel.from_pretrained(model, folder).",
        "set_adapter": "use peft.get_peft_model(model, config), and its set_adapter.",
        "dequantize": "load the folder without quantization.",
        "get_position_embeddings": "positions are rotary; there are no embeddings of them.",
        "resize_position_embeddings": "positions are rotary; set rope_scaling in the config.",
        "adjust_generation_fn": "from_pretrained reads generation_config.json.",
        "continuous_batching_context_manager": "use chameleon_core.Engine(model), which rows join and leave.",
        "destroy_cached_continuous_batching_manager": "use chameleon_core.Engine(model), which holds nothing back.",
        "enable_peft_hotswap": "use peft.utils.hotswap of a model of peft.",
        "estimate_tokens": "count input_ids.",
        "floating_point_ops": "count 6 × num_parameters() × ids for training, and 2 × for generation.",
        "generate_batch": "use chameleon_core.Engine(model), which rows join and leave.",
        "get_adapter_state_dict": "use peft.get_peft_model_state_dict(model).",
        "get_correct_attn_implementation": "use set_attn_implementation(name), which says where it can't run.",
        "get_experts_implementation": "no layer has experts.",
        "get_placeholder_mask": "compare input_ids with config.image_token_id.",
        "heal_tokens": "end the prompt where a token ends, such as before a space.",
        "init_continuous_batching": "use chameleon_core.Engine(model), which rows join and leave.",
        "initialize_weights": "use init_weights().",
        "is_custom_code": "no code of a model repository runs here.",
        "is_remote_code": "no code of a model repository runs here.",
        "load_custom_generate": "call your loop with the model as its first argument.",
        "prune_heads": "no head can be left out; scale the head's part of self_attn.o_proj.weight.",
        "to_bettertransformer": "choose an attention backend: set_attn_implementation(name).",
        "get_compiled_call": "use torch.compile(model, fullgraph=True).",
        "register_for_auto_class": "the class is found by chameleon_core, not by an auto class.",
        "rotary_emb": "the rotation of positions is computed in each pass, by chameleon_core.model.rope.",
        "set_decoder": "replace the layers of model.model.",
        "set_encoder": "set model.image_tokenizer.",
        "set_use_kernels": "choose an attention backend: set_attn_implementation(name).",
        "use_kernels": "choose an attention backend: set_attn_implementation(name).",
        "loss_function": "the bare transformer has no loss; ChameleonForConditionalGeneration has one.",
        "loss_type": "the loss is the cross-entropy of the next id; assign loss_function for another.",
        "set_experts_implementation": "no layer has experts.",
        "warn_if_padding_and_no_attention_mask": "forward warns by itself (InputWarning).",
    }
)
"""For attributes of ``transformers``' models that those here don't have, what to do, as a clause of an error."""

FOLLOWS: Mapping[str, str] = MappingProxyType(
    {
        "base_model": "replace the parts of model.model.",
        "device": "use model.to(device).",
        "dtype": "use model.to(dtype).",
        "pad_token_id": "set generation_config.pad_token_id, or config.pad_token_id.",
        "padding_idx": "set config.pad_token_id.",
        "tp_size": "the model is loaded in one process; use device_map.",
        "vocab_size": "use resize_token_embeddings(size).",
        "vqmodel": "set image_tokenizer.",
    }
)
"""For attributes that follow from others, how these are changed."""


OF_THE_CLASS: Mapping[str, str] = MappingProxyType(
    {
        "attribute_types": "make a subclass.",
        "base_model_prefix": "the bare model is model.model.",
        "input_modalities": "they follow from the model's parts.",
        "loss_type": "assign loss_function.",
        "output_modalities": "pass modality= to generate.",
        "supports_gradient_checkpointing": "use gradient_checkpointing_enable() or gradient_checkpointing_disable().",
    }
)
"""For what the class says of every model, and no assignment changes, what to do."""


class KnownAttributes(nn.Module):
    """A module that refuses attributes which would do nothing, once it is made.

    What the class defines may be assigned, and modules, parameters and tensors, names that begin with an underscore,
    and what the libraries around a model set (``SET_BY_LIBRARIES``). A subclass may set what it likes.
    """

    attribute_types: ClassVar[Mapping[str, tuple[type, ...]]] = {}
    """Attributes that take values of these types alone."""

    def _seal(self) -> None:
        self.__dict__["_sealed"] = type(self)

    def __setattr__(self, name: str, value: Any) -> None:
        own = getattr(type(self), name, None)
        if isinstance(own, property):  # torch would register a module, in the place of calling the setter
            if own.fset is None:
                instead = FOLLOWS.get(name, "it follows from the model's parts.")
                raise UnknownAttributeError(f"{type(self).__name__}.{name} can't be assigned: {instead}")
            own.fset(self, value)
            return
        if name in OF_THE_CLASS and value != own:
            raise UnknownAttributeError(f"{type(self).__name__}.{name} can't be assigned: {OF_THE_CLASS[name]}")
        if self.__dict__.get("_sealed") is type(self) and not self._takes(name, value):
            raise UnknownAttributeError(self._refusal(name))
        expected = type(self).attribute_types.get(name)
        if expected is not None and not isinstance(value, expected):
            kinds = " or ".join(each.__name__ for each in expected)
            raise ConfigError(f"{type(self).__name__}.{name} must be a {kinds}; got {value!r:.80}.")
        super().__setattr__(name, value)

    def _takes(self, name: str, value: Any) -> bool:
        return (
            name.startswith("_")
            or name in self.__dict__
            or name in SET_BY_LIBRARIES
            or hasattr(type(self), name)
            or isinstance(value, nn.Module | Tensor)
            or name in self._modules
            or name in self._parameters
            or name in self._buffers
            or not type(self).__module__.startswith("chameleon_core.")
        )

    def _refusal(self, name: str) -> str:
        found = f"{type(self).__name__} has no attribute {name!r}, so that assigning it would do nothing"
        if name in INSTEAD:
            return f"{found}: {INSTEAD[name]}"
        known = [each for each in (*self.__dict__, *dir(type(self))) if not each.startswith("_")]
        close = difflib.get_close_matches(name, known, n=1)
        return f"{found}. " + (f"Did you mean {close[0]!r}?" if close else "A subclass may have attributes of its own.")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in INSTEAD:
                raise
        raise UnknownAttributeError(f"{type(self).__name__} has no attribute {name!r}: {INSTEAD[name]}")
