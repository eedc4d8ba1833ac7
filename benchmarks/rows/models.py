"""Models that rows share: ours, and that of ``transformers`` with the same weights.

Shapes: B batch, T prompt length or positions, X prompt and new ids, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from loading import TINY_IMAGE_TOKENIZER, random_weight
from torch import Tensor

from chameleon_backends import QuantizedLinear
from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, GenerationOptions
from chameleon_core.testing import make_vocabulary

from .row import Side


@dataclass(frozen=True, slots=True)
class Pair:
    """The same weights on both sides."""

    ours: ChameleonForConditionalGeneration
    theirs: Any

    def prompt(self, batch: int, length: int) -> Tensor:
        """Return random ids of text, int64 [B, T]."""
        words = self.ours.layout.text_allowed_V.nonzero()[:, 0]
        generator = torch.Generator().manual_seed(0)
        return words[torch.randint(len(words), (batch, length), generator=generator)]

    def their_logits(self, ids_BX: Tensor, new: int) -> Tensor:
        """Return the logits after which each of the last ``new`` ids was chosen, [B, new, V]; those of codes masked."""
        with torch.inference_mode():
            logits: Tensor = self.theirs(ids_BX, use_cache=False, logits_to_keep=new + 1).logits
        return logits[:, :-1]

    def our_logits(self, ids_BX: Tensor, new: int) -> Tensor:
        """Return the same of our model, whose logits of codes are masked as theirs are."""
        with torch.inference_mode():
            logits = self.ours(ids_BX, use_cache=False, logits_to_keep=new + 1).logits[:, :-1]
        return logits.index_fill(-1, self.ours.layout.code_to_id_Z, torch.finfo(logits.dtype).min)

    def of_text(self, logits_BTV: Tensor) -> Tensor:
        """Return logits with those of ids masked that our side doesn't write in text, as begin-image."""
        return logits_BTV.masked_fill(~self.ours.layout.text_allowed_V, torch.finfo(logits_BTV.dtype).min)


def small_config(*, vocabulary_size: int = 65536, width: int = 256, layers: int = 4, context: int = 4096) -> Any:
    """Return the configuration of a model of the published form, 64 numbers to a head."""
    vocabulary = make_vocabulary(num_codes=vocabulary_size // 8, size=vocabulary_size)
    return ChameleonConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 64, 1),
        num_key_value_heads=max(width // 64, 1),
        max_position_embeddings=context,
        vocabulary_map=vocabulary,
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
        pad_token_id=vocabulary["<pad>"],
        vq_config=TINY_IMAGE_TOKENIZER,
    )


def random_model(config: ChameleonConfig, dtype: torch.dtype) -> ChameleonForConditionalGeneration:
    """Return a model of random weights, which are made once, in their dtype."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = ChameleonForConditionalGeneration(config).to(dtype)
    # Memory that the model lays out itself, as that of one that is loaded.
    for name, tensor in model.to_empty(device="cpu").state_dict().items():
        tensor.copy_(random_weight(name, tensor.shape))
    return model.eval()


def their_model(ours: ChameleonForConditionalGeneration) -> Any:
    """Return the model of ``transformers`` with the weights of ours, which it shares; dequantized where they are."""
    weights = ours.state_dict()
    for name, layer in ours.named_modules():
        if isinstance(layer, QuantizedLinear):
            weights = {key: value for key, value in weights.items() if not key.startswith(f"{name}.")}
            weights[f"{name}.weight"] = layer.dequantize().to(ours.dtype)
    config = transformers.ChameleonConfig.from_dict(ours.config.to_dict())
    # What the config of a quantized model records would have transformers look for its own quantizer.
    config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        theirs = transformers.ChameleonForConditionalGeneration(config)
    missing, unexpected = theirs.load_state_dict(weights, strict=False, assign=True)
    wrong = [*unexpected, *(name for name in missing if not name.startswith("model.vqmodel."))]
    if wrong:
        raise RuntimeError(f"the two models have different weights: {', '.join(wrong)}.")
    # These aren't among the weights.
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(theirs.config)
    theirs.generation_config.eos_token_id = None
    return theirs.eval()


class Stamps(transformers.StoppingCriteria):
    """Notes when each step of a generation ends, or begins."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Note the end of a step of ``transformers``, whose generation never ends here."""
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)

    def should_stop(self) -> bool:
        """Note the beginning of a step of ours, whose generation never ends here."""
        self.times.append(time.perf_counter())
        return False

    @property
    def step(self) -> float:
        """The milliseconds of a step, the mean of all but the prompt's."""
        return 1000 * (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def our_steps(
    model: ChameleonForConditionalGeneration, prompt_BT: Tensor, new: int, **options: Any
) -> tuple[Side, Callable[[], Tensor]]:
    """Return a side with the milliseconds of a step after the prompt's, and what generates the ids."""
    chosen = GenerationOptions(max_new_tokens=new, eos_token_ids=(), **options)

    def side() -> float:
        stamps = Stamps()
        model.generate(prompt_BT, options=chosen, should_stop=stamps.should_stop)
        del stamps.times[0]  # the first begins the prompt's step
        return stamps.step

    return side, lambda: model.generate(prompt_BT, options=chosen)


def their_steps(model: Any, prompt_BT: Tensor, new: int, **options: Any) -> tuple[Side, Callable[[], Tensor]]:
    """Return the same of ``transformers``."""
    common = {
        "input_ids": prompt_BT,
        "attention_mask": torch.ones_like(prompt_BT),
        "max_new_tokens": new,
        "do_sample": False,
        **options,
    }

    def side() -> float:
        stamps = Stamps()
        model.generate(**common, stopping_criteria=transformers.StoppingCriteriaList([stamps]))
        return stamps.step

    return side, lambda: model.generate(**common)
