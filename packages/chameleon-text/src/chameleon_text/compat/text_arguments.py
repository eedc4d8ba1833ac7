"""The arguments of a call that are about text: padding, truncation, and which columns are returned."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import msgspec

from ..batch import PaddingSide, TensorKind, choice
from ..errors import ConfigError

UNLIMITED = 10**30
"""What ``model_max_length`` is where no limit is known, as in ``transformers``."""
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = ("longest", "max_length", "do_not_pad")
Padding = bool | Literal["longest", "max_length", "do_not_pad"] | None

_REFUSED = {
    "text_target": "Encode the targets by a call of their own.",
    "text_pair_target": "Encode the targets by a call of their own.",
    "sanitize_control_tokens": "apply_chat_template of the processor keeps what messages spell text, always.",
}
_ONLY = {"verbose": (True, False, None), **dict.fromkeys(_REFUSED, (None, False))}
"""Arguments with the only values that mean what happens anyway."""


class TextArguments(msgspec.Struct, frozen=True, kw_only=True):
    """How texts become rows of ids; the names and meanings are those of ``transformers``."""

    padding: Padding = False
    """True or "longest" pads to the longest row, "max_length" to ``max_length``; False, the default, pads nothing."""
    truncation: bool | str | None = None
    """True or "longest_first" cuts rows to ``max_length``; by default only if ``max_length`` is given without padding.

    "only_first" and "only_second" cut one text of a pair.
    """
    max_length: int | None = None
    """The ids of a row, ≥ 1; by default the tokenizer's ``model_max_length``."""
    stride: int = 0
    """The ids that a row shares with its overflow, ≥ 0, by default 0."""
    pad_to_multiple_of: int | None = None
    """Pads rows until their length is a multiple of it, ≥ 1; None, the default, doesn't."""
    padding_side: PaddingSide | None = None
    """"left" or "right"; by default the tokenizer's."""
    truncation_side: PaddingSide | None = None
    """Where rows are cut, "left" or "right"; by default the tokenizer's."""
    add_special_tokens: bool = True
    """Whether rows begin with ``<s>`` (and what else the tokenizer file puts around a text); by default True."""
    is_split_into_words: bool = False
    """Whether each text is a list of words; by default not."""
    split_special_tokens: bool | None = None
    """Whether the names of special tokens are text; by default as the tokenizer's attribute says."""
    return_tensors: TensorKind | None = None
    """"pt", "np", or None (the default) for lists."""
    return_attention_mask: bool | None = None
    """Whether to return ``attention_mask``; by default True."""
    return_token_type_ids: bool = False
    """Whether to return ``token_type_ids``, the text of a pair that each id belongs to; by default not."""
    return_special_tokens_mask: bool = False
    """Whether to return ``special_tokens_mask``, 1 for what was put around a text; by default not."""
    return_offsets_mapping: bool = False
    """Whether to return ``offset_mapping``, the characters that each id stands for; by default not."""
    return_length: bool = False
    """Whether to return ``length``, the ids of each row; by default not."""
    return_overflowing_tokens: bool = False
    """Whether what truncation cuts off becomes rows of its own; by default not."""

    def __post_init__(self) -> None:
        choice("padding", self.padding, (True, False, None, *PADDINGS))
        choice("truncation", self.truncation, (True, False, None, *TRUNCATIONS))
        choice("padding_side", self.padding_side, ("left", "right", None))
        choice("truncation_side", self.truncation_side, ("left", "right", None))
        choice("return_tensors", self.return_tensors, ("np", "pt", None))
        for name, least in (("max_length", 1), ("pad_to_multiple_of", 1), ("stride", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ConfigError(f"{name} is {value!r:.80}, expected an integer ≥ {least}.")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r:.80}, expected True or False.")

    def lengths(self, model_max_length: int) -> tuple[int | None, int | None, bool]:
        """Return the length to cut rows to, the length to pad them to, and whether they are padded at all.

        A length to pad to of None is that of the longest row. Raises ``ConfigError`` where a length is needed and
        nobody gave one, and where the two contradict each other.
        """
        truncation = self.truncation
        if truncation is None:
            truncation = self.max_length is not None and self.padding in (False, None)
        cuts = truncation not in (False, "do_not_truncate")
        pads = self.padding not in (False, None, "do_not_pad")
        to_length = self.padding == "max_length"
        if self.max_length is not None and not cuts and not to_length:
            raise ConfigError(
                f"max_length={self.max_length} would do nothing here. Pass truncation=True to cut longer rows, or "
                "padding='max_length' to fill up shorter ones."
            )
        length = self.max_length
        if length is None and (cuts or to_length):
            if model_max_length >= UNLIMITED:
                what = "truncation" if cuts else "padding='max_length'"
                raise ConfigError(f"{what} needs a length: pass max_length, or set tokenizer.model_max_length.")
            length = model_max_length
        multiple = self.pad_to_multiple_of
        if multiple is not None and not pads:
            raise ConfigError("pad_to_multiple_of needs padding=True, or padding='max_length'.")
        if cuts and pads and multiple is not None and cast(int, length) % multiple:
            raise ConfigError(f"rows are cut to {length} ids, which isn't a multiple of pad_to_multiple_of={multiple}.")
        if self.return_overflowing_tokens and not cuts:
            raise ConfigError("return_overflowing_tokens=True needs truncation=True, since nothing is cut otherwise.")
        return length if cuts else None, length if to_length else None, pads


def text_arguments(arguments: Mapping[str, Any], *, known: Iterable[str] = (), caller: str) -> TextArguments:
    """Return the arguments of a call of ``caller``, which also knows the names ``known``.

    Raises ``ConfigError`` for an unknown name, with the closest, and for a value without effect.
    """
    fields = TextArguments.__struct_fields__
    chosen = {}
    for name, value in arguments.items():
        if name in fields:
            # An enumeration of transformers is a str; what it calls is its value.
            value = getattr(value, "value", value)
            if value is not None or name not in _BOOLS:
                chosen[name] = value
        elif name not in _ONLY:
            names = (*fields, *known)
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The arguments are {', '.join(sorted(names))}."
            raise ConfigError(f"{caller} has no argument {name!r}. {hint}")
        elif not any(value is each for each in _ONLY[name]):
            reason = _REFUSED.get(name, "Pass True or False.")
            raise ConfigError(f"{name}={value!r:.80} isn't done by {caller}. {reason}")
    return TextArguments(**chosen)


_FLAGS = tuple(field.name for field in msgspec.structs.fields(TextArguments) if field.type is bool)
_BOOLS = frozenset(_FLAGS) | {"stride"}
"""Fields for which None means the default."""
