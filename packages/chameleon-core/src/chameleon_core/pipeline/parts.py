"""The parts of a pipeline: whether they belong together, and an image tokenizer that is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..config import ChameleonConfig
from ..errors import ConfigError, VocabularyError
from ..generation import GenerationOptions
from ..layout import PLACEHOLDERS, TokenLayout, added_name
from ..model import ChameleonForConditionalGeneration
from ..protocols import ImageTokenizerLike, ProcessorLike, SizedImageTokenizerLike

# How many names an error lists.
MOST_LISTED = 5


class DeferredImageTokenizer:
    """The image tokenizer of a model's folder, loaded when a picture is first read or drawn.

    A processor that has it reads pictures; one that gets text alone needs neither the weights nor chameleon-vq.
    """

    def __init__(self, model: ChameleonForConditionalGeneration) -> None:
        self._model = model

    @property
    def num_codes(self) -> int:
        """How many different codes there are."""
        return self._model.layout.num_codes

    @property
    def tokens_per_image(self) -> int:
        """How many codes a picture takes."""
        return self._model.layout.tokens_per_image

    def load(self) -> ImageTokenizerLike:
        """Return the image tokenizer. Raises ``ConfigError`` where it is another model's."""
        image_tokenizer = self._model.image_tokenizer
        check_image_tokenizer(image_tokenizer, self._model.layout)
        return image_tokenizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask for these, which nothing should be loaded for
            raise AttributeError(name)
        return getattr(self.load(), name)

    def __repr__(self) -> str:
        return f"<the image tokenizer of {self._model.source}, loaded when a picture needs it>"


def weightless_model(
    config: ChameleonConfig, source: Path | None, generation_options: GenerationOptions
) -> ChameleonForConditionalGeneration:
    """Return a model on the meta device: its configuration and options, and no weights."""
    with torch.device("meta"):
        model = ChameleonForConditionalGeneration(config)
    model.source = source
    model.generation_options = generation_options
    return model.eval()


def check_image_tokenizer(image_tokenizer: ImageTokenizerLike, layout: TokenLayout) -> None:
    """Raise ``ConfigError`` where the number of codes, or of those of a picture, isn't the model's."""
    found = (image_tokenizer.num_codes, image_tokenizer.tokens_per_image)
    expected = (layout.num_codes, layout.tokens_per_image)
    if found != expected:
        raise ConfigError(
            f"the image tokenizer has {found[0]} codes and takes {found[1]} for a picture; the model has "
            f"{expected[0]} (picture names in vocabulary_map) and takes {expected[1]} (resolution in vq_config). "
            "Use the image tokenizer that the model was trained with, and its config_dict() as vq_config."
        )


def sized(image_tokenizer: ImageTokenizerLike) -> SizedImageTokenizerLike:
    """Return an image tokenizer as one for pictures of several sizes. Raises ``ConfigError`` where it isn't one."""
    if not callable(getattr(image_tokenizer, "picture_size", None)):
        raise ConfigError(
            f"this model's pictures have several sizes, and the image tokenizer, a {type(image_tokenizer).__name__}, "
            "has no picture_size(): it reads and draws one. Use one such as chameleon_vq.ImageTokenizer."
        )
    return cast(SizedImageTokenizerLike, image_tokenizer)


def check_picture_format(processor: ProcessorLike, layout: TokenLayout) -> None:
    """Raise ``ConfigError`` where pictures have several sizes and the processor writes another one's, or one alone."""
    given = getattr(processor, "picture_format", None)
    if not layout.pictures.has_sizes or getattr(given, "grids", None) == layout.pictures.grids:
        return
    raise ConfigError(
        f"this model's pictures have {len(layout.pictures.grids)} sizes, and the processor writes "
        f"{'pictures of one' if given is None else 'those of another model'}. Load both by Chameleon.from_pretrained, "
        "or make the processor with picture_format=model.layout.pictures."
    )


def check_vocabularies(model: ChameleonForConditionalGeneration, processor: ProcessorLike) -> None:
    """Raise ``VocabularyError`` where model and processor give a name different ids, or an id has no embedding."""
    of_model = _with_one_placeholder(model.config.vocabulary_map or {})
    of_processor = _with_one_placeholder(processor.tokenizer.token_ids)
    wrong = [
        f"{name!r} ({id_} and {of_processor.get(name, 'none')})"
        for name, id_ in of_model.items()
        if of_processor.get(name) != id_ and name != added_name(id_)
    ]
    if wrong:
        more = f" and {len(wrong) - MOST_LISTED} more" if len(wrong) > MOST_LISTED else ""
        raise VocabularyError(
            f"the model and the processor don't belong together: {len(wrong)} of the {len(of_model)} names in the "
            f"model's vocabulary_map have another id in the processor's tokenizer: {', '.join(wrong[:MOST_LISTED])}"
            f"{more}. Load both from one folder, or build the config with "
            "vocabulary_map=processor.tokenizer.token_ids."
        )
    largest = max(of_processor.values())
    if largest >= model.config.vocab_size:
        raise VocabularyError(
            f"the processor's tokenizer has ids up to {largest}, the model's vocabulary ends at "
            f"{model.config.vocab_size - 1}. Resize it: model.resize_token_embeddings({largest + 1})."
        )


def _with_one_placeholder(token_ids: Mapping[str, int]) -> dict[str, int]:
    # Meta's file and transformers' have different names for the placeholder.
    return {PLACEHOLDERS[0] if name in PLACEHOLDERS else name: id_ for name, id_ in token_ids.items()}
