"""A model to train from scratch: an image tokenizer, a text tokenizer that is trained on the captions, new weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta

from .._config import Config
from .._files import writing
from ..config import ChameleonConfig
from ..errors import ConfigError
from ..model import ChameleonForConditionalGeneration
from ..optional_packages import text_package, vq_package
from ..pipeline import Chameleon
from ..tokenization.options import TokenizationOptions
from ..tokenization.samples import read_samples
from ..tokenization.units import find_units

SHAPE_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "attention_dropout",
    "swin_norm",
    "mlp_bias",
    "qk_norm",
)
"""The fields of a configuration that the tokenizers leave open."""


class NewModelOptions(Config, frozen=True, kw_only=True):
    """Where the tokenizers of a new model come from."""

    image_tokenizer: Annotated[str, Meta(min_length=1)] | None = None
    """The image tokenizer: a folder, a registered name or a Hub id. Required."""
    text_tokenizer: Annotated[str, Meta(min_length=1)] | None = None
    """The folder of the text tokenizer; None (the default) to train one on the captions."""
    text_size: Annotated[int, Meta(ge=256)] | None = None
    """The most ids of text of a tokenizer that is trained, 256 of them bytes; ≥ 256, by default 32,768."""
    min_frequency: Annotated[int, Meta(ge=1)] | None = None
    """How often a pair of pieces of text must occur to become an id; ≥ 1, by default 2."""

    def check(self) -> None:
        """Raise ``ConfigError`` without an image tokenizer, and for options of a tokenizer that isn't trained."""
        if self.image_tokenizer is None:
            raise ConfigError(
                "a new model needs an image tokenizer: give its folder, name or Hub id as image_tokenizer "
                "(--image-tokenizer)."
            )
        if self.text_tokenizer is not None and (self.text_size or self.min_frequency):
            raise ConfigError("text_size and min_frequency are for a text tokenizer that is trained; one is given.")


def write_new_model(
    folder: Path,
    sources: Sequence[str | os.PathLike[str]],
    new: NewModelOptions,
    shape: ChameleonConfig,
    tokenization: TokenizationOptions,
    *,
    seed: int,
) -> None:
    """Write a model with random weights and both tokenizers, whose fields of ``SHAPE_FIELDS`` are those of ``shape``.

    Raises ``ConfigError`` where no caption can be read and the text tokenizer is to be trained, and what loading the
    tokenizers raises.
    """
    text = text_package()
    image_tokenizer = vq_package().ImageTokenizer.from_pretrained(new.image_tokenizer)
    if new.text_tokenizer is not None:
        tokenizer = text.TextTokenizer.from_pretrained(new.text_tokenizer)
    else:
        changes: dict[str, int] = {
            name: value for name in ("text_size", "min_frequency") if (value := getattr(new, name)) is not None
        }
        captions = list(read_captions(sources, tokenization))
        if not captions:
            raise ConfigError(
                "there are no captions to train a text tokenizer on. Give one as text_tokenizer (--text-tokenizer)."
            )
        tokenizer = text.train_tokenizer(captions, num_codes=image_tokenizer.num_codes, **changes)
    processor = text.ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer)
    vocabulary = processor.vocabulary
    config = ChameleonConfig(
        vocab_size=max(tokenizer.token_ids.values()) + 1,
        vocabulary_map=tokenizer.token_ids,
        vq_config=image_tokenizer.config_dict(),
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
        **{name: getattr(shape, name) for name in SHAPE_FIELDS},
    )
    torch.manual_seed(seed)
    model = ChameleonForConditionalGeneration(config)
    with writing(folder):
        Chameleon(model, processor, image_tokenizer).save_pretrained(folder)


def read_captions(sources: Sequence[str | os.PathLike[str]], options: TokenizationOptions) -> Iterator[str]:
    """Yield the captions of data sets, in their order; pictures aren't decoded."""
    for unit in find_units(list(map(os.path.abspath, sources)), options).units:
        samples: Iterator[Any] = read_samples(unit, options)
        yield from (sample.caption for sample in samples if sample.problem is None and sample.caption is not None)
