"""The options of generation, as a configuration and as the keyword arguments of what generates."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeAlias, TypedDict, Unpack

from msgspec import Meta

from .._config import Config
from ..config import ChameleonConfig
from ..errors import ConfigError
from .foreign_fields import OF_THE_CALL, REFUSED, TRANSLATED
from .options_file import usable_fields

Modality: TypeAlias = str
"""What may be written: "text"; "image", one picture; the name of a segment codec, one of its segments; "interleaved",
text in which the model begins any of these."""

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Temperature = Annotated[float, Meta(ge=1e-6, le=1e6)]
Penalty = Annotated[float, Meta(ge=1e-3, le=1e3)]
Scale = Annotated[float, Meta(ge=-1e4, le=1e4)]
Probability = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Seconds = Annotated[float, Meta(ge=0)]
Bias = Annotated[float, Meta(ge=-1e30, le=1e30)]
Sequences = tuple[Annotated[tuple[Natural, ...], Meta(min_length=1)], ...]
Biases = tuple[tuple[Annotated[tuple[Natural, ...], Meta(min_length=1)], Bias], ...]


class GenerationOptions(Config, frozen=True, kw_only=True):
    """The options of one generation; by default greedy text to the end of the context.

    Generation takes the likeliest id, or samples where ``do_sample`` is set. Before that the logits are changed, in
    this order: by ``guidance_scale``; by ``sequence_bias`` and ``repetition_penalty``; by what
    ``no_repeat_ngram_size``, ``forbidden_ids``, ``forbidden_sequences`` and ``min_new_tokens`` forbid; by
    ``logits_processors``. Where ids are sampled the logits are then divided by the temperature and truncated by top-h,
    top-k, top-p, min-p, ``typical_p``, ``epsilon_cutoff`` and ``eta_cutoff``.

    ``guidance_text`` and ``guidance_image`` guide pictures by comparing the logits after the context with those after
    less of it: ``uncond + guidance_image · (images − uncond) + guidance_text · (full − images)``, where ``full`` is
    after the whole context, ``images`` after its pictures alone and ``uncond`` after none of it.

    A row ends at the end-of-stream id, at one of ``stop_ids``, after one of ``stop_strings``, at ``max_new_tokens``, or
    after ``max_time``.

    Raises ``ConfigError`` with the field's name and what it allows.
    """

    modality: Modality = "text"
    """What may be written: "text", the default, "image" (one picture), "interleaved" (text in which the model begins
    pictures and other segments), or the name of a segment codec whose segments can be written (one of them)."""
    max_new_tokens: Count | None = None
    """The maximum number of ids to write, including those of pictures (begin-image, codes, end-image), ≥ 1. None, the
    default, is what remains of the context, or one picture for "image" and one segment for a codec, if that is less."""
    min_new_tokens: Natural = 0
    """The minimum number of ids before text may end by an id, ≥ 0 and at most ``max_new_tokens``; 0 by default.
    ``stop_strings`` and the end of the only picture of "image", or segment of a codec, end a row in any case."""
    max_time: Seconds | None = None
    """The seconds after which rows end with what they have, at least one id, ≥ 0; None, the default, sets no limit."""
    image_size: tuple[Count, Count] | None = None
    """The height and width in pixels of the pictures that are drawn, a size that the model has. None, the default, lets
    the model choose where its pictures have several sizes."""
    max_images: Natural | None = None
    """The maximum number of pictures of an interleaved document, ≥ 0; None, the default, sets no limit."""
    do_sample: bool = False
    """Whether ids are sampled; False, the default, takes the likeliest id."""
    temperature: Temperature = 1.0
    """What the logits of text and of codecs' segments are divided by, 1e-6…1e6; 1 by default. Below 1, likely ids
    become likelier."""
    top_k: Count | None = None
    """Sample text, and codecs' segments, among this many of the likeliest ids, ≥ 1; None, the default, keeps all."""
    top_p: Probability = 1.0
    """Sample text, and codecs' segments, among the smallest set of the likeliest ids that holds this probability, in
    (0, 1]; 1, the default, keeps all."""
    min_p: Share = 0.0
    """Sample text, and codecs' segments, among ids with at least this share of the likeliest one's probability, in
    [0, 1); 0, the default, keeps all."""
    typical_p: Probability = 1.0
    """Sample text, and codecs' segments, among the ids nearest to typical that hold this probability, in (0, 1]
    (arXiv 2202.00666); 1, the default, keeps all."""
    top_h: Probability | None = None
    """Sample text among the likeliest ids that have this share of the entropy, in (0, 1] (arXiv 2509.02510); None, the
    default, keeps all."""
    epsilon_cutoff: Share = 0.0
    """Sample text among ids of at least this probability, in [0, 1) (arXiv 2210.15191); 0, the default, keeps all."""
    eta_cutoff: Share = 0.0
    """Sample text among ids of at least a probability that falls with the entropy, this at most, in [0, 1) (arXiv
    2210.15191); 0, the default, keeps all."""
    sequence_bias: Biases = ()
    """Pairs of a sequence of text ids and what is added to the logit of its last id after the others, -1e30…1e30; none
    by default."""
    repetition_penalty: Penalty = 1.0
    """What the positive logits of text ids that the row has already are divided by, and the negative ones multiplied
    by, 0.001…1,000; 1, the default, is no penalty."""
    no_repeat_ngram_size: Natural = 0
    """Text may not repeat a sequence of this many ids that the row has already, ≥ 0; 0, the default, lets it."""
    forbidden_ids: tuple[Natural, ...] = ()
    """Ids that may not come, of text, codes of pictures or codecs' segments, each ≥ 0; none by default. What must come
    in a picture or segment, as its end, comes in any case."""
    forbidden_sequences: Sequences = ()
    """Sequences of ids whose last may not come after the others, none of them empty; none by default."""
    fixed_codes: tuple[Natural | None, ...] = ()
    """For modality "image", a code for each position of the picture that is written as it is, or None where the model
    writes one; empty, the default, leaves all to the model."""
    negative_prompt_ids: tuple[Natural, ...] = ()
    """The ids of a prompt that guidance leads away from, in the place of a context without text, or for text of the
    last id alone; empty, the default, is none. They count only where guidance is on."""
    cache_implementation: str = "dynamic"
    """The name of the cache of keys and values: "dynamic", the default, stores them as the model computes them, "int8"
    takes half the memory of bfloat16, "static" has room for the whole context from the start; or a plugin's."""
    logits_processors: tuple[str | dict[str, Any], ...] = ()
    """Further logits processors, in their order: the name of each, or a mapping with "name" and the processor's own
    options; none by default. One that is made for text alone leaves pictures as they are."""
    decoding: str | dict[str, Any] = "plain"
    """The decoding strategy: "plain", the default; "jacobi", "lookup" or "draft", which guess what comes next, so that
    fewer passes of the model write the same; "beam", which writes the best of several texts; or a plugin's name, or a
    mapping with "name" and the strategy's own options."""
    image_temperature: Temperature | None = None
    """``temperature`` for the codes of pictures, 1e-6…1e6; None, the default, takes the text's."""
    image_top_k: Count | None = None
    """``top_k`` for the codes of pictures, ≥ 1; None, the default, takes the text's."""
    image_top_p: Probability | None = None
    """``top_p`` for the codes of pictures, in (0, 1]; None, the default, takes the text's."""
    image_min_p: Share | None = None
    """``min_p`` for the codes of pictures, in [0, 1); None, the default, takes the text's."""
    image_typical_p: Probability | None = None
    """``typical_p`` for the codes of pictures, in (0, 1]; None, the default, takes the text's."""
    guidance_scale: Scale = 1.0
    """How strongly text follows the prompt, -1e4…1e4, compared with text after the last id of the prompt alone or after
    ``negative_prompt_ids``; 1, the default, is no guidance, above 1 is more. It is for modality "text"."""
    guidance_text: Scale = 1.0
    """How strongly pictures follow the text of the context, -1e4…1e4; 1, the default, is no guidance, above 1 is
    more."""
    guidance_image: Scale = 1.0
    """How strongly pictures follow the pictures of the context, -1e4…1e4; 1, the default, is no guidance, above 1 is
    more."""
    seed: Natural | None = None
    """The seed of sampling, ≥ 0: the noise of a choice is a function of it, of the row's index in the request, of the
    position and of the id. None, the default, takes a seed from torch's generator."""
    eos_token_ids: tuple[Natural, ...] | None = None
    """The ids that end a row in the place of the configuration's end-of-stream ids, which text may then hold; None, the
    default, are the configuration's, and none end no row."""
    stop_ids: tuple[Natural, ...] = ()
    """Ids that end a row too, each ≥ 0 and below the vocabulary's size; none by default."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a row once its new text contains one, none of them empty; none by default."""

    elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **{name: f"it is an argument of generate: {meaning}." for name, meaning in OF_THE_CALL.items()},
            **{name: f"use {ours}, or the argument of generate." for name, ours in TRANSLATED.items()},
            **{name: each.instead for name, each in REFUSED.items()},
            "max_length": "use max_new_tokens, which doesn't count the prompt, or the argument of generate.",
            "min_length": "use min_new_tokens, which doesn't count the prompt, or the argument of generate.",
            "assistant_model": "use decoding, the name of a strategy that guesses ids.",
            "logits_processor": "use logits_processors, the names of plugins, or the argument of generate.",
            "stopping_criteria": "use stop_strings or stop_ids, or the argument of generate.",
            "streamer": "use stream_ids of the model or Chameleon.stream, or the argument of generate.",
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

    @classmethod
    def lumina(cls, **changes: Unpack[GenerationChanges]) -> GenerationOptions:
        """Return the published sampling of Lumina-mGPT: text of the 10 likeliest ids, pictures of 2,000, guidance 4.

        ``changes`` are other fields, or other values of these.
        """
        options = cls(do_sample=True, top_k=10, image_top_k=2000, guidance_text=4.0, guidance_image=4.0)
        return options.replace(**changes)

    def replace(self, **changes: Unpack[GenerationChanges]) -> GenerationOptions:  # type: ignore[override]
        """Return a copy with some options changed, checked again."""
        return super().replace(**changes)

    def with_extras(self, extras: Mapping[str, Any]) -> GenerationOptions:
        """Return a copy with other entries beyond the fields."""
        return super().replace(extras=dict(extras))

    @classmethod
    def from_file_dict(
        cls, data: Mapping[str, Any], config: ChameleonConfig, *, source: str = "generation_config.json"
    ) -> GenerationOptions:
        """Return the options of a ``generation_config.json``, which may be one of ``transformers``.

        Values that ``transformers`` reads as "off" or as "only the likeliest" mean the same here. ``eos_token_id``
        becomes ``eos_token_ids``, or ``stop_ids`` where it only adds to those of ``config``; ``suppress_tokens`` and
        ``bad_words_ids`` become ``forbidden_ids`` and ``forbidden_sequences``. A value that can't be used never raises:
        it is left out, and one warning names ``source``, the fields and their values. What counts for a call of
        ``generate``, as ``max_length``, is kept in ``extras``, where ``generate`` looks it up.
        """
        given, unused, kept = usable_fields(data, config, cls)
        if unused:
            listed = "; ".join(f"{name} {value}" for name, value in unused.items())
            warnings.warn(f"{source} has values that can't be used and are left out: {listed}.", stacklevel=2)
        read = cls.from_dict(given, source=source)
        return read.with_extras({**read.extras, **kept})

    def to_file_dict(self, config: ChameleonConfig) -> dict[str, Any]:
        """Return the mapping of ``generation_config.json``: the config's ids and the options that were changed.

        ``eos_token_ids`` and ``stop_ids`` are written as ``eos_token_id``, ``forbidden_ids`` as ``suppress_tokens`` and
        ``forbidden_sequences`` as ``bad_words_ids``, which other readers know.
        """
        if isinstance(self.decoding, dict) and any(_is_model(each) for each in self.decoding.values()):
            raise ConfigError(
                "GenerationOptions.decoding holds a model, which no file can hold. Name its folder, or give it to "
                "generate alone."
            )
        ids: dict[str, Any] = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        defaults = GenerationOptions().to_dict()
        changed = {name: value for name, value in self.to_dict().items() if defaults.get(name) != value}
        ends = changed.pop("eos_token_ids", None)
        if changed.pop("stop_ids", None) or ends is not None:
            ends = config.eos_token_ids if ends is None else ends
            ids["eos_token_id"] = list(dict.fromkeys((*ends, *self.stop_ids)))
        for name, theirs in (("forbidden_ids", "suppress_tokens"), ("forbidden_sequences", "bad_words_ids")):
            if name in changed:
                changed[theirs] = changed.pop(name)
        return {**{name: value for name, value in ids.items() if value is not None}, **changed}

    def check(self) -> None:
        """Raise ``ConfigError`` where a number isn't finite or fields contradict each other."""
        for name in (
            "temperature",
            "image_temperature",
            "repetition_penalty",
            "guidance_scale",
            "guidance_text",
            "guidance_image",
        ):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"GenerationOptions.{name} must be finite; got {value!r}.")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"GenerationOptions.min_new_tokens is {self.min_new_tokens}, above max_new_tokens, "
                f"{self.max_new_tokens}. Lower it."
            )
        for each in self.logits_processors:
            _check_named("logits_processors", each, '{"name": "top-k", "k": 5}')
        _check_named("decoding", self.decoding, '{"name": "jacobi", "window": 8}')
        if self.fixed_codes and self.modality != "image":
            raise ConfigError(
                f"GenerationOptions.fixed_codes are those of one picture, of modality 'image'; got {self.modality!r}."
            )
        if self.guidance_scale != 1 and self.modality != "text":
            raise ConfigError(
                f"GenerationOptions.guidance_scale guides text, of modality 'text'; got {self.modality!r}. "
                "Use guidance_text and guidance_image, which guide pictures."
            )
        if "" in self.stop_strings:
            raise ConfigError("GenerationOptions.stop_strings holds an empty string, which every text contains.")


def published_options(config: ChameleonConfig) -> GenerationOptions:
    """Return the published sampling of a model: that of Lumina-mGPT where its pictures are written so."""
    grammar = config.picture_grammar
    name = grammar if isinstance(grammar, str) else grammar.get("name")
    return GenerationOptions.lumina() if name == "lumina" else GenerationOptions.published()


def _check_named(field: str, listed: str | dict[str, Any], example: str) -> None:
    """Raise ``ConfigError`` where what asks for a plugin has no name, or options that JSON can't hold."""
    name = listed if isinstance(listed, str) else listed.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f'GenerationOptions.{field} takes a name, or a mapping with a "name" such as {example}; got {listed!r:.80}.'
        )
    try:
        # A model, as of the strategy "draft", is no option of a file; a name in its place is.
        json.dumps(listed, allow_nan=False, default=_model_name)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"GenerationOptions.{field} has options of {name!r} that can't be written as JSON: {error}."
        ) from error


def _is_model(value: object) -> bool:
    return callable(getattr(value, "feed_lanes", None))


def _model_name(value: object) -> str:
    if not _is_model(value):
        raise TypeError(f"{type(value).__name__} is no value of JSON, nor a model")
    return type(value).__name__


class PipelineChanges(TypedDict, total=False):
    """Every option but ``modality``, which the pipeline's methods have as an argument of its own.

    What each means: the field of the same name of ``GenerationOptions``.
    """

    max_new_tokens: Count | None
    min_new_tokens: Natural
    max_time: Seconds | None
    image_size: tuple[Count, Count] | None
    max_images: Natural | None
    do_sample: bool
    temperature: Temperature
    top_k: Count | None
    top_p: Probability
    min_p: Share
    typical_p: Probability
    top_h: Probability | None
    epsilon_cutoff: Share
    eta_cutoff: Share
    sequence_bias: Biases
    repetition_penalty: Penalty
    no_repeat_ngram_size: Natural
    forbidden_ids: tuple[Natural, ...]
    forbidden_sequences: Sequences
    fixed_codes: tuple[Natural | None, ...]
    negative_prompt_ids: tuple[Natural, ...]
    cache_implementation: str
    logits_processors: tuple[str | dict[str, Any], ...]
    decoding: str | dict[str, Any]
    image_temperature: Temperature | None
    image_top_k: Count | None
    image_top_p: Probability | None
    image_min_p: Share | None
    image_typical_p: Probability | None
    guidance_scale: Scale
    guidance_text: Scale
    guidance_image: Scale
    seed: Natural | None
    eos_token_ids: tuple[Natural, ...] | None
    stop_ids: tuple[Natural, ...]
    stop_strings: tuple[str, ...]


class GenerationChanges(PipelineChanges, total=False):
    """Every field of ``GenerationOptions`` as a keyword argument, so that editors complete and check them."""

    modality: Modality
