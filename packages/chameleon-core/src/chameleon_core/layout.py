"""Which ids mean what: the picture codes, the special tokens and the text of a model's vocabulary.

Shapes: N picture codes, V ids of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import ChameleonConfig
from .errors import ConfigError, VocabularyError

BOS = "<s>"
EOS = "</s>"
PAD = "<pad>"
BEGIN_IMAGE = "<racm3:break>"
END_IMAGE = "<eoss>"
SEPARATOR = "<reserved08706>"
# Published by Meta under the second name, which the reference renames to the first.
PLACEHOLDERS = ("<image>", "<reserved08707>")

# The letters A to J are the decimal digits of the code: IMGIMGCFHZ is code 257.
_PICTURE_NAME = re.compile(r"IMGIMG([A-J]+)Z")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")

# Meta's own rule is that every name which starts with "<", other than "<" itself, is special. It suits a tokenizer that
# splits off each punctuation mark, as the published one does, so that no piece of text has "<" and more. One trained
# elsewhere may learn "</", "<div", "<>" or "<=>"; the closing bracket and the letter or digit leave those to text.
_SPECIAL_NAME = re.compile(r"<[^<>]*[0-9A-Za-z][^<>]*>")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenLayout:
    """The meaning of ids, read off the tokenizer's own names and never off an order of the ids.

    ``code_to_id_N`` and ``id_to_code_V`` (int64, -1 where an id is no picture code) are inverse to each other.
    ``text_allowed_V`` (bool) marks the ids that may be generated as text: those that have a name which is neither a
    picture code's nor special. ``eos_id`` and ``begin_image_id`` are special, so they aren't among them.
    """

    code_to_id_N: Tensor
    id_to_code_V: Tensor
    text_allowed_V: Tensor
    tokens_per_image: int
    begin_image_id: int
    end_image_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    separator_id: int
    placeholder_id: int
    special_ids: frozenset[int]
    picture_ids: frozenset[int]

    @property
    def num_codes(self) -> int:
        """How many picture codes there are; codes run from 0 to ``num_codes - 1``."""
        return len(self.code_to_id_N)

    @property
    def vocab_size(self) -> int:
        """How many ids there are, named or not."""
        return len(self.id_to_code_V)

    def to(self, device: torch.device | str) -> TokenLayout:
        """The same layout with its tensors on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in ("code_to_id_N", "id_to_code_V", "text_allowed_V")}
        return dataclasses.replace(self, **moved)

    @classmethod
    def from_config(cls, config: ChameleonConfig) -> TokenLayout:
        """The layout of a model, from its ``vocabulary_map`` and the picture size in its ``vq_config``."""
        if config.vocabulary_map is None:
            raise VocabularyError(
                "this config has no vocabulary_map, which names the picture codes and special tokens. "
                "Take it from the model's tokenizer: the names and ids of tokenizer.json."
            )
        return cls.from_vocabulary_map(
            config.vocabulary_map, tokens_per_image(config.vq_config), vocab_size=config.vocab_size
        )

    @classmethod
    def from_vocabulary_map(
        cls, vocabulary_map: Mapping[str, int], tokens_per_image: int, *, vocab_size: int | None = None
    ) -> TokenLayout:
        """The layout of a tokenizer's name → id.

        ``vocab_size`` is the number of ids where some at the end have no name. Raises ``VocabularyError`` where a
        special is missing (all that are, listed), two names share an id, or the picture names skip a code.
        """
        if tokens_per_image < 1:
            raise ConfigError(f"tokens_per_image must be at least 1; got {tokens_per_image}.")
        size = max(vocabulary_map.values(), default=-1) + 1 if vocab_size is None else vocab_size
        name_of = _inverse(vocabulary_map, size)
        specials = _specials(vocabulary_map)
        code_to_id_N = torch.tensor(_ids_in_order_of_codes(vocabulary_map))
        id_to_code_V = torch.full((size,), -1)
        id_to_code_V[code_to_id_N] = torch.arange(len(code_to_id_N))
        special_ids = frozenset(id_ for name, id_ in vocabulary_map.items() if _SPECIAL_NAME.fullmatch(name))
        text_allowed_V = torch.zeros(size, dtype=torch.bool)
        text_allowed_V[list(name_of)] = True
        text_allowed_V[list(special_ids)] = False
        text_allowed_V[code_to_id_N] = False
        return cls(
            code_to_id_N=code_to_id_N,
            id_to_code_V=id_to_code_V,
            text_allowed_V=text_allowed_V,
            tokens_per_image=tokens_per_image,
            special_ids=special_ids,
            picture_ids=frozenset(code_to_id_N.tolist()),
            **specials,
        )


def tokens_per_image(vq_config: Mapping[str, Any] | None) -> int:
    """How many ids one picture of the default size takes, from the config of its image tokenizer.

    Every level after the first halves the resolution; absent entries have the reference's defaults, 512 pixels and
    five levels. ``codes_per_position`` is how many codes a quantizer spends on one position of the grid.
    """
    vq_config = vq_config or {}
    resolution = vq_config.get("resolution", 512)
    multiplier = vq_config.get("channel_multiplier", vq_config.get("ch_mult", (1, 1, 2, 2, 4)))
    codes_per_position = vq_config.get("codes_per_position", 1)
    if not isinstance(multiplier, Sequence) or not multiplier:
        raise ConfigError(f"vq_config.channel_multiplier must list a factor for each level; got {multiplier!r}.")
    for name, value in (("resolution", resolution), ("codes_per_position", codes_per_position)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"vq_config.{name} must be a whole number, at least 1; got {value!r}.")
    stride = 2 ** (len(multiplier) - 1)
    if resolution % stride:
        raise ConfigError(f"vq_config.resolution must be a multiple of its levels' stride {stride}; got {resolution}.")
    side = resolution // stride
    count: int = side * side * codes_per_position
    return count


def _inverse(vocabulary_map: Mapping[str, int], size: int) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, id_ in vocabulary_map.items():
        if not 0 <= id_ < size:
            raise VocabularyError(f"the id of {name!r} must be from 0 to {size - 1}; got {id_}.")
        other = names.setdefault(id_, name)
        if other != name and {other, name} != set(PLACEHOLDERS):
            raise VocabularyError(f"{other!r} and {name!r} have the same id, {id_}; every name needs one of its own.")
    return names


def _specials(vocabulary_map: Mapping[str, int]) -> dict[str, int]:
    placeholder = next((name for name in PLACEHOLDERS if name in vocabulary_map), PLACEHOLDERS[0])
    names = {
        "bos_id": BOS,
        "eos_id": EOS,
        "pad_id": PAD,
        "begin_image_id": BEGIN_IMAGE,
        "end_image_id": END_IMAGE,
        "separator_id": SEPARATOR,
        "placeholder_id": placeholder,
    }
    missing = [name for name in names.values() if name not in vocabulary_map]
    if missing:
        raise VocabularyError(
            f"the vocabulary lacks the special tokens {', '.join(missing)}. "
            f"(The placeholder may be called {' or '.join(PLACEHOLDERS)}.)"
        )
    return {field: vocabulary_map[name] for field, name in names.items()}


def _ids_in_order_of_codes(vocabulary_map: Mapping[str, int]) -> list[int]:
    name_of: dict[int, str] = {}
    for name in vocabulary_map:
        match = _PICTURE_NAME.fullmatch(name)
        if match is None:
            continue
        code = int(match[1].translate(_DIGITS))
        if code in name_of:
            raise VocabularyError(f"{name_of[code]!r} and {name!r} both stand for the picture code {code}.")
        name_of[code] = name
    if not name_of:
        raise VocabularyError("the vocabulary has no picture codes: no name is like 'IMGIMGCFHZ' (code 257).")
    highest = max(name_of)
    if highest >= len(name_of):
        absent = list(itertools.islice((code for code in range(highest) if code not in name_of), 8))
        more = ", …" if highest + 1 - len(name_of) > len(absent) else ""
        raise VocabularyError(
            f"the picture codes must run from 0 to the highest, {highest}, without a gap; no name stands for "
            f"{', '.join(map(str, absent))}{more}."
        )
    return [vocabulary_map[name_of[code]] for code in range(len(name_of))]
