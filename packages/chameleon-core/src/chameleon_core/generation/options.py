"""The options of generation, as a configuration and as the keyword arguments of what generates."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, TypedDict, Unpack

from msgspec import Meta

from .._config import Config
from ..config import ChameleonConfig
from ..errors import ConfigError
from .sampling import Sampling

Modality = Literal["text", "image", "interleaved"]
"""What may be written: text, one picture, or text in which the model begins pictures."""

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Probability = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class GenerationOptions(Config, frozen=True, kw_only=True):
    """The options of one generation; by default greedy text to the end of the context.

    Generation takes the likeliest id, or samples where ``do_sample`` is set: the logits are changed by
    ``repetition_penalty``, divided by the temperature, and truncated by top-k, top-p and min-p, in this order.

    ``guidance_text`` and ``guidance_image`` guide pictures by comparing the logits after the context with those after
    less of it: ``uncond + guidance_image · (images − uncond) + guidance_text · (full − images)``, where ``full`` is
    after the whole context, ``images`` after its pictures alone and ``uncond`` after none of it.

    A row ends at the end-of-stream id, at one of ``stop_ids``, after one of ``stop_strings``, or at ``max_new_tokens``.

    Raises ``ConfigError`` with the field's name and what it allows.
    """

    modality: Modality = "text"
    """What may be written: "text", "image" (one picture) or "interleaved" (text in which the model begins pictures);
    "text" by default."""
    max_new_tokens: Count | None = None
    """The most ids to write, those of pictures (begin-image, codes, end-image) included, ≥ 1. None, the default, is one
    picture for "image", and otherwise what remains of the context."""
    max_images: Natural | None = None
    """The most pictures of an interleaved document, ≥ 0; None, the default, sets no limit."""
    do_sample: bool = False
    """Whether ids are sampled; False, the default, takes the likeliest id."""
    temperature: Positive = 1.0
    """What the logits of text are divided by, > 0; 1 by default. Below 1, likely ids become likelier."""
    top_k: Count | None = None
    """Sample text among this many of the likeliest ids, ≥ 1; None, the default, keeps all."""
    top_p: Probability = 1.0
    """Sample text among the smallest set of the likeliest ids that holds this probability, in (0, 1]; 1, the default,
    keeps all."""
    min_p: Share = 0.0
    """Sample text among ids with at least this share of the likeliest one's probability, in [0, 1); 0, the default,
    keeps all."""
    repetition_penalty: Positive = 1.0
    """What the positive logits of text ids that the row has already are divided by, and the negative ones multiplied
    by, > 0; 1, the default, is no penalty."""
    image_temperature: Positive | None = None
    """``temperature`` for the codes of pictures, > 0; None, the default, takes the text's."""
    image_top_k: Count | None = None
    """``top_k`` for the codes of pictures, ≥ 1; None, the default, takes the text's."""
    image_top_p: Probability | None = None
    """``top_p`` for the codes of pictures, in (0, 1]; None, the default, takes the text's."""
    image_min_p: Share | None = None
    """``min_p`` for the codes of pictures, in [0, 1); None, the default, takes the text's."""
    guidance_text: float = 1.0
    """How strongly pictures follow the text of the context; 1, the default, is no guidance, above 1 is more. Finite."""
    guidance_image: float = 1.0
    """How strongly pictures follow the pictures of the context; 1, the default, is no guidance, above 1 is more.
    Finite."""
    seed: Natural | None = None
    """The seed of sampling, ≥ 0: each row gets a generator of its own from it and its index in the request. None, the
    default, takes a seed from torch's generator."""
    stop_ids: tuple[Natural, ...] = ()
    """Ids that end a row, each ≥ 0 and below the vocabulary's size; none by default."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a row once its new text contains one, none of them empty; none by default."""

    known_extras: ClassVar[frozenset[str]] = frozenset(
        {
            "_from_model_config",
            "bos_token_id",
            "eos_token_id",
            "output_attentions",
            "output_hidden_states",
            "pad_token_id",
            "transformers_version",
            "use_cache",
        }
    )

    @classmethod
    def published(cls, **changes: Unpack[GenerationChanges]) -> GenerationOptions:
        """Return the sampling of the Chameleon paper's release: temperature 0.7, top-p 0.9, and guidance of pictures.

        ``changes`` are other fields, or other values of these.
        """
        options = cls(
            do_sample=True,
            temperature=0.7,
            top_p=0.9,
            repetition_penalty=1.2,
            guidance_text=3.0,
            guidance_image=1.2,
        )
        return options.replace(**changes)

    def replace(self, **changes: Unpack[GenerationChanges]) -> GenerationOptions:  # type: ignore[override]
        """Return a copy with some options changed, checked again."""
        return super().replace(**changes)

    def to_file_dict(self, config: ChameleonConfig) -> dict[str, Any]:
        """Return the mapping of ``generation_config.json``: the config's ids and the options that were changed."""
        ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        defaults = GenerationOptions().to_dict()
        changed = {name: value for name, value in self.to_dict().items() if defaults.get(name) != value}
        return {**{name: value for name, value in ids.items() if value is not None}, **changed}

    def check(self) -> None:
        """Raise ``ConfigError`` where a number isn't finite or fields contradict each other."""
        for name in ("temperature", "image_temperature", "repetition_penalty", "guidance_text", "guidance_image"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"GenerationOptions.{name} must be finite; got {value!r}.")
        if "" in self.stop_strings:
            raise ConfigError("GenerationOptions.stop_strings holds an empty string, which every text contains.")

    @property
    def text_sampling(self) -> Sampling | None:
        """How text ids are sampled; None takes the likeliest."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p) if self.do_sample else None

    @property
    def image_sampling(self) -> Sampling | None:
        """How codes of pictures are sampled; None takes the likeliest."""
        if not self.do_sample:
            return None
        return Sampling(
            self.temperature if self.image_temperature is None else self.image_temperature,
            self.top_k if self.image_top_k is None else self.image_top_k,
            self.top_p if self.image_top_p is None else self.image_top_p,
            self.min_p if self.image_min_p is None else self.image_min_p,
        )


class PipelineChanges(TypedDict, total=False):
    """Every option but ``modality``, which the pipeline's methods have as an argument of its own.

    What each means: the field of the same name of ``GenerationOptions``.
    """

    max_new_tokens: Count | None
    max_images: Natural | None
    do_sample: bool
    temperature: Positive
    top_k: Count | None
    top_p: Probability
    min_p: Share
    repetition_penalty: Positive
    image_temperature: Positive | None
    image_top_k: Count | None
    image_top_p: Probability | None
    image_min_p: Share | None
    guidance_text: float
    guidance_image: float
    seed: Natural | None
    stop_ids: tuple[Natural, ...]
    stop_strings: tuple[str, ...]


class GenerationChanges(PipelineChanges, total=False):
    """Every field of ``GenerationOptions`` as a keyword argument, so that editors complete and check them."""

    modality: Modality
