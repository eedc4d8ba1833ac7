"""What a caller can ask of generation."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from .._config import Config
from ..config import ChameleonConfig
from ..errors import ConfigError
from .sampling import Sampling

Modality = Literal["text", "image", "interleaved"]
Count = Annotated[int, Meta(ge=1)]
Temperature = Annotated[float, Meta(gt=0)]
Mass = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class GenerationOptions(Config, frozen=True, kw_only=True):
    """Options of one generation; greedy text to the end of the context unless said otherwise.

    ``modality`` says what may be written: text only, one picture, or text with pictures where the model begins one.
    ``max_new_tokens`` counts begin-image, codes and end-image too; None is one picture for "image", and what remains
    of the context otherwise. ``max_images`` bounds the pictures of an interleaved document.

    Sampling (``do_sample=True``): ``repetition_penalty`` divides the positive and multiplies the negative logits of
    text ids that the row has already; then ``temperature``, ``top_k``, ``top_p`` (smallest set that holds this
    probability) and ``min_p`` (at least this share of the likeliest id's). ``image_*`` are the same for codes; None
    takes the text's value. ``seed`` gives each row a generator of its own; None draws one from torch's.

    Guidance of pictures: ``uncond + guidance_image · (images − uncond) + guidance_text · (full − images)`` over the
    logits after the whole context, after its pictures only and after none of it; 1 and 1 is no guidance.

    A row ends at the end of stream, at one of ``stop_ids``, or once its new text has one of ``stop_strings``.
    """

    modality: Modality = "text"
    max_new_tokens: Count | None = None
    max_images: Annotated[int, Meta(ge=0)] | None = None
    do_sample: bool = False
    temperature: Temperature = 1.0
    top_k: Count | None = None
    top_p: Mass = 1.0
    min_p: Share = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    image_temperature: Temperature | None = None
    image_top_k: Count | None = None
    image_top_p: Mass | None = None
    image_min_p: Share | None = None
    guidance_text: float = 1.0
    guidance_image: float = 1.0
    seed: Annotated[int, Meta(ge=0)] | None = None
    stop_ids: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    stop_strings: tuple[str, ...] = ()

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
    def published(cls, **changes: object) -> GenerationOptions:
        """The sampling of the Chameleon paper's release: text and pictures at temperature 0.7 and top-p 0.9."""
        options = cls(
            do_sample=True,
            temperature=0.7,
            top_p=0.9,
            repetition_penalty=1.2,
            guidance_text=3.0,
            guidance_image=1.2,
        )
        return options.replace(**changes)

    def to_file_dict(self, config: ChameleonConfig) -> dict[str, Any]:
        """The mapping of ``generation_config.json``: the config's ids and the options that differ from the defaults."""
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
        """How text ids are drawn; None takes the likeliest."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p) if self.do_sample else None

    @property
    def image_sampling(self) -> Sampling | None:
        """How codes are drawn; None takes the likeliest."""
        if not self.do_sample:
            return None
        return Sampling(
            self.temperature if self.image_temperature is None else self.image_temperature,
            self.top_k if self.image_top_k is None else self.image_top_k,
            self.top_p if self.image_top_p is None else self.image_top_p,
            self.min_p if self.image_min_p is None else self.image_min_p,
        )
