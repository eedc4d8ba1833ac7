"""Pictures in prompts: what the ids of a model mean, and its image tokenizer, which reads ``pixel_values``.

Shapes: B batch, T query length, E hidden width, P pictures, N codes of a picture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._boundary import translates_errors
from ..compat.methods import TransformersMethods
from ..compat.vocabulary_mapping import VocabularyMapping
from ..errors import ConfigError, InputError
from ..folder_parts import load_image_tokenizer
from ..layout import TokenLayout
from ..protocols import ImageTokenizerLike, SegmentGrammarLike, TextTokenizerLike
from .outputs import ImageFeatures


@dataclass(slots=True)
class PictureReader:
    """What a model reads pictures with."""

    source: Path | None = None
    """The folder that the model was loaded from."""
    image_tokenizer: ImageTokenizerLike | None = None
    """The one that was set or used; None before."""
    tokenizer: TextTokenizerLike | None = None
    """The one that was attached."""
    segment_grammars: Mapping[str, SegmentGrammarLike] = field(default_factory=dict)
    """The grammars of segment codecs that were attached with it, by the codec's name."""
    check_finite: bool = True
    """Whether weights are checked for NaN when they are loaded."""
    layout: tuple[tuple[Any, ...], TokenLayout] | None = None
    """The layout, and what it was made from."""


class PictureInputs(TransformersMethods):
    """A model that takes pictures. What it reads them with is kept by the bare model, and shared by the one around it.

    ``image_tokenizer`` encodes ``pixel_values`` as ids. A model that was loaded from a folder loads it from there on
    first use, through chameleon-vq; set the attribute to use another.
    """

    @property
    def picture_reader(self) -> PictureReader:
        """What pictures are read with."""
        reader: PictureReader = self.base_model._picture_reader
        return reader

    @property
    def source(self) -> Path | None:
        """The folder that the model was loaded from, None of a new one."""
        return self.picture_reader.source

    @source.setter
    def source(self, folder: str | os.PathLike[str] | None) -> None:
        if not isinstance(folder, str | os.PathLike | None):
            raise ConfigError(f"model.source must be a folder or None; got {folder!r:.80}.")
        self.picture_reader.source = None if folder is None else Path(folder)

    @property
    def _image_tokenizer(self) -> ImageTokenizerLike | None:
        return self.picture_reader.image_tokenizer

    @property
    def _check_finite(self) -> bool:
        return self.picture_reader.check_finite

    @_check_finite.setter
    def _check_finite(self, checks: bool) -> None:
        self.picture_reader.check_finite = checks

    @property
    def _known_pad_id(self) -> int | None:
        return self.config.pad_token_id if self.config.vocabulary_map is None else self.layout.pad_id

    def attach_tokenizer(
        self, tokenizer: TextTokenizerLike, segment_grammars: Mapping[str, SegmentGrammarLike] | None = None
    ) -> None:
        """Let a text tokenizer decide which ids are text and which are special, and codecs what else may be written.

        Without one the names in the config's ``vocabulary_map`` decide, and every name that begins with ``<`` is
        special. A tokenizer knows which of these its merges produce from text, and which other ids its file flags as
        special. ``segment_grammars`` are those of a processor's segment codecs, by name: their segments can be written,
        too. ``Chameleon`` attaches those of its processor.
        """
        self.picture_reader.tokenizer = tokenizer
        self.picture_reader.segment_grammars = dict(segment_grammars or {})

    @property
    def layout(self) -> TokenLayout:
        """Which ids are picture codes, which are special and which are text.

        It is built from the attached tokenizer, or without one from the config's ``vocabulary_map``. Raises
        ``ConfigError`` where the config has none.
        """
        reader, config = self.picture_reader, self.config
        made_from = (config.vocab_size, config.vocabulary_map, config.vq_config, config.picture_grammar)
        key = (*made_from, reader.tokenizer, reader.segment_grammars)
        if reader.layout is None or any(new is not old for new, old in zip(key, reader.layout[0], strict=True)):
            reader.layout = (key, self._new_layout(reader.tokenizer))
        return reader.layout[1]

    def _new_layout(self, tokenizer: TextTokenizerLike | None) -> TokenLayout:
        if self.config.vocabulary_map is None:
            raise ConfigError(
                "the config has no vocabulary_map, so the ids of picture codes are unknown. "
                "Build ChameleonConfig with vocabulary_map={name: id, ...}, the names and ids of the tokenizer."
            )
        if tokenizer is None:
            return TokenLayout.from_config(self.config)
        return TokenLayout.from_config(
            self.config,
            vocabulary_map=tokenizer.token_ids,
            # A third-party tokenizer may not say which of its ids are special; their names do.
            special_ids=getattr(tokenizer, "special_ids", None),
            segment_grammars=self.picture_reader.segment_grammars,
        )

    @property
    def image_tokenizer(self) -> ImageTokenizerLike:
        """The image tokenizer, loaded from the model's folder on first use unless it was set.

        Raises ``MissingPackageError`` where chameleon-vq isn't installed, ``ConfigError`` where the model wasn't loaded
        from a folder.
        """
        reader = self.picture_reader
        if reader.image_tokenizer is None:
            if reader.source is None:
                raise ConfigError(
                    "this model has no image tokenizer, because it wasn't loaded from a folder. "
                    "Set model.image_tokenizer = ImageTokenizer.from_pretrained(...) of chameleon_vq."
                )
            reader.image_tokenizer = load_image_tokenizer(
                reader.source, device=self.device, check_finite=reader.check_finite
            )
        return reader.image_tokenizer

    @image_tokenizer.setter
    def image_tokenizer(self, image_tokenizer: ImageTokenizerLike | None) -> None:
        if image_tokenizer is not None and not callable(getattr(image_tokenizer, "decode", None)):
            raise ConfigError(
                f"image_tokenizer is a {type(image_tokenizer).__name__}; expected an ImageTokenizer of chameleon_vq, "
                "or what has its methods."
            )
        self.picture_reader.image_tokenizer = image_tokenizer

    @property
    def vqmodel(self) -> Any:
        """The VQ-VAE of the image tokenizer, which is a part of the model in ``transformers``; None where it has none.

        Its weights aren't among the parameters here. Raises what ``image_tokenizer`` raises.
        """
        return getattr(self.image_tokenizer, "model", None)

    @property
    def vocabulary_mapping(self) -> VocabularyMapping:
        """Which ids are codes of pictures, under the names of ``transformers``; ``layout`` says it in short."""
        return VocabularyMapping(self.layout)

    def get_image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Return the ids of pictures [P, C, H, W], int64 [P, N]."""
        codes_PN = self._codes(pixel_values)
        return self.layout.code_to_id_Z.to(codes_PN.device)[codes_PN]

    def get_image_features(self, pixel_values: Tensor, *, return_dict: bool = True) -> Any:
        """Return the codes of pictures [P, C, H, W] and the embeddings of their ids, as ``ImageFeatures``.

        Beside them are the latents of an image tokenizer that has ``encoding_of_pixels``, as that of chameleon-vq.
        """
        codes_PN, latents = self._encoding(pixel_values)
        ids_PN = self.layout.code_to_id_Z.to(codes_PN.device)[codes_PN]
        embeds_PNE = self.get_input_embeddings()(ids_PN.to(self.device))
        features = ImageFeatures(latents, pooler_output=embeds_PNE, image_tokens=codes_PN.flatten())
        return features if return_dict else features.to_tuple()

    @torch.no_grad()
    @translates_errors
    def _encoding(self, pixel_values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        encode = getattr(self.image_tokenizer, "encoding_of_pixels", None)
        if encode is None:
            return self._codes(pixel_values), {}
        check_pixels(pixel_values)
        self.layout.pictures.check_takes_pixels()
        encoding = encode(pixel_values)
        latents = ("last_hidden_state", "quantized_last_hidden_state", "embedding_loss")
        return encoding.codes_Bhw.flatten(1).cpu(), {name: getattr(encoding, name) for name in latents}

    @torch.no_grad()
    @translates_errors
    def _codes(self, pixel_values: Tensor) -> Tensor:
        check_pixels(pixel_values)
        self.layout.pictures.check_takes_pixels()
        return self.image_tokenizer.encode_pixels(pixel_values)

    @torch.no_grad()
    @translates_errors
    def insert_images(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Return ``input_ids`` [B, T] with the placeholders replaced by the ids of ``pixel_values``.

        Raises ``InputError`` where the number of placeholders isn't that of the pictures' codes.
        """
        placeholder = self.layout.placeholder_id
        is_placeholder_BT = input_ids == placeholder
        picture_ids = self.get_image_tokens(pixel_values).to(input_ids.device)
        self._check_placeholders(int(is_placeholder_BT.sum()), picture_ids)
        return input_ids.masked_scatter(is_placeholder_BT, picture_ids.to(input_ids.dtype))

    def insert_image_embeddings(self, inputs_embeds: Tensor, features_PNE: Tensor) -> Tensor:
        """Return ``inputs_embeds`` [B, T, E] with the embeddings of placeholders replaced by those of pictures.

        Raises ``InputError`` where the number of placeholders isn't that of the pictures' codes.
        """
        placeholder = torch.tensor(self.layout.placeholder_id, device=inputs_embeds.device)
        is_placeholder_BT = (inputs_embeds == self.get_input_embeddings()(placeholder)).all(dim=-1)
        self._check_placeholders(int(is_placeholder_BT.sum()), features_PNE[..., 0])
        return inputs_embeds.masked_scatter(is_placeholder_BT[..., None], features_PNE.to(inputs_embeds.dtype))

    def _check_placeholders(self, count: int, codes_PN: Tensor) -> None:
        if count != codes_PN.numel():
            raise InputError(
                f"the prompt has {count} placeholders (id {self.layout.placeholder_id}) and the "
                f"{codes_PN.shape[0]} pictures give {codes_PN.numel()} codes, {codes_PN.shape[1]} each. "
                "Build the prompt with ChameleonProcessor(image_seq_length=<codes of a picture>)."
            )


def check_pixels(pixel_values: object) -> None:
    """Raise ``InputError`` where pixels aren't a floating-point tensor of four dimensions."""
    if not isinstance(pixel_values, Tensor) or pixel_values.dim() != 4:
        shape = list(pixel_values.shape) if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
        raise InputError(
            f"pixel_values must be [pictures, channels, height, width]; got {shape}. In their order the arguments are "
            "input_ids, pixel_values, attention_mask, as in transformers; pass attention_mask by its name."
        )
