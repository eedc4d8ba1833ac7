"""Which ids mean what: the picture codes, the special tokens and the text of a model's vocabulary.

Which names are special is one rule, which ``chameleon_text.vocabulary`` keeps too. A ``vocabulary_map`` has names
alone, so the rule of Meta's release decides: every name that begins with ``<`` is special, except ``<`` itself. (Its
tokenizer splits off every punctuation mark, so that no piece of text has ``<`` and more.) A tokenizer knows better: its
file flags added tokens as special, or not, and its merges may build text such as ``</`` or ``<div>``. So where the
model's tokenizer is at hand its ``special_ids`` decide. Picture codes are never special; the names below always are.

Shapes: Z picture codes in all, V ids in all.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._config import shown
from .config import PLACEHOLDERS as PLACEHOLDERS
from .config import ChameleonConfig
from .errors import ConfigError, VocabularyError
from .picture_format import PictureFormat, picture_format
from .picture_grammars import GrammarContext, Grid
from .protocols import SegmentGrammarLike

BOS = "<s>"
EOS = "</s>"
PAD = "<pad>"
BEGIN_IMAGE = "<racm3:break>"
END_IMAGE = "<eoss>"
SEPARATOR = "<reserved08706>"
# The letters A to J are the decimal digits of the code: IMGIMGCFHZ is code 257.
# A code of 19 digits and more is none, because no vocabulary has as many names.
_PICTURE_NAME = re.compile(r"IMGIMG([A-J]{1,18})Z")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TokenLayout:
    """The meaning of each id, taken from the names of the tokens and never from the order of their ids.

    Made by ``from_config`` or ``from_vocabulary_map``.
    """

    code_to_id_Z: Tensor
    """int64: the id of each picture code."""
    id_to_code_V: Tensor
    """int64: the picture code of each id, -1 where the id is not a picture code's."""
    text_allowed_V: Tensor
    """bool: whether an id may be generated as text, which is so if it has a name and is neither a picture code's nor
    special. ``eos_id`` and ``begin_image_id`` are special, so they are not among these."""
    tokens_per_image: int
    """How many codes one picture takes; of pictures of several sizes, one of the image tokenizer's own resolution."""
    begin_image_id: int
    """The id before the codes of a picture, ``<racm3:break>``."""
    end_image_id: int
    """The id after the codes of a picture, ``<eoss>``."""
    bos_id: int
    """The id that begins every sequence, ``<s>``."""
    eos_id: int
    """The id that ends a generated answer, ``</s>``."""
    pad_id: int
    """The id that fills up the shorter rows of a batch, ``<pad>``."""
    separator_id: int
    """The id that ends a user's turn, ``<reserved08706>``."""
    placeholder_id: int
    """The id that stands for one code of a picture whose pixels are given beside the ids, ``<image>``."""
    special_ids: frozenset[int]
    """Every id that is neither text nor a picture code's: those above and the reserved ones."""
    picture_ids: frozenset[int]
    """Every id of a picture code."""
    pictures: PictureFormat
    """How pictures are written as ids, by the model's picture grammar."""
    segment_grammars: Mapping[str, SegmentGrammarLike] = dataclasses.field(default_factory=dict)
    """How segments of codecs are written as ids, by the codec's name; none by default."""

    def __repr__(self) -> str:
        return (
            f"TokenLayout({self.vocab_size:,} ids: {self.num_codes:,} picture codes ({self.tokens_per_image:,} to a "
            f"picture), {int(self.text_allowed_V.sum()):,} text, {len(self.special_ids):,} special)"
        )

    @property
    def code_to_id_N(self) -> Tensor:
        """The old name of ``code_to_id_Z``."""
        warnings.warn("TokenLayout.code_to_id_N is now called code_to_id_Z.", DeprecationWarning, stacklevel=2)
        return self.code_to_id_Z

    @property
    def num_codes(self) -> int:
        """How many picture codes there are. Codes run from 0 to ``num_codes - 1``."""
        return len(self.code_to_id_Z)

    @property
    def vocab_size(self) -> int:
        """How many ids there are, named or not."""
        return len(self.id_to_code_V)

    @cached_property
    def codes_by_id(self) -> dict[int, int]:
        """The picture code of each id that has one, for readers of single ids: a tensor takes longer to ask."""
        return {id_: code for code, id_ in enumerate(self.code_to_id_Z.tolist())}

    @cached_property
    def text_ids(self) -> frozenset[int]:
        """The ids that may be generated as text, those of ``text_allowed_V``."""
        return frozenset(self.text_allowed_V.nonzero().flatten().tolist())

    @cached_property
    def has_text(self) -> bool:
        """Whether any id may be generated as text."""
        return bool(self.text_allowed_V.any())

    @property
    def sized_pictures(self) -> PictureFormat | None:
        """What a processor needs as its ``picture_format``: ``pictures``, or None where all have one size."""
        return self.pictures if self.pictures.has_sizes else None

    def segment_ids(self, name: str) -> frozenset[int]:
        """Return the ids that a segment may have after its begin: "image" is a picture, any other name a codec's."""
        if name == "image":
            return self.picture_ids | self.pictures.marker_ids
        return self.segment_grammars[name].ids

    def to(self, device: torch.device | str) -> TokenLayout:
        """Return the layout with its tensors on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in ("code_to_id_Z", "id_to_code_V", "text_allowed_V")}
        return dataclasses.replace(self, **moved)

    @classmethod
    def from_config(
        cls,
        config: ChameleonConfig,
        *,
        vocabulary_map: Mapping[str, int] | None = None,
        special_ids: Iterable[int] | None = None,
        segment_grammars: Mapping[str, SegmentGrammarLike] = MappingProxyType({}),
    ) -> TokenLayout:
        """Build the layout of a model from its ``vocabulary_map``, ``picture_grammar`` and ``vq_config``.

        ``vocabulary_map`` and ``special_ids`` are those of the model's tokenizer, where it is at hand; see
        ``from_vocabulary_map``. ``segment_grammars`` are those of the processor's codecs, by name. Raises
        ``VocabularyError`` where the config has no ``vocabulary_map``, or an unusable one, and the picture grammar's.
        """
        if config.vocabulary_map is None:
            raise VocabularyError(
                "this config has no vocabulary_map, which names the picture codes and special tokens. "
                "Take it from the model's tokenizer: the names and ids of tokenizer.json."
            )
        return cls._build(
            config.vocabulary_map if vocabulary_map is None else vocabulary_map,
            _positions(config.vq_config),
            vocab_size=config.vocab_size,
            special_ids=special_ids,
            picture_grammar=config.picture_grammar,
            segment_grammars=segment_grammars,
        )

    @classmethod
    def from_vocabulary_map(
        cls,
        vocabulary_map: Mapping[str, int],
        tokens_per_image: int,
        *,
        vocab_size: int | None = None,
        special_ids: Iterable[int] | None = None,
    ) -> TokenLayout:
        """Build the layout of a vocabulary's names and ids, with the picture grammar "chameleon".

        ``vocab_size`` is the number of ids, where some at the end have no name. ``special_ids`` are those of the
        vocabulary's tokenizer (``TextTokenizer.special_ids`` of chameleon_text); without them the names alone decide,
        by the rule at the head of this module.

        Raises ``VocabularyError`` where specials are missing (all of them are listed), two names share an id, or the
        picture names skip a code.
        """
        if tokens_per_image < 1:
            raise ConfigError(f"tokens_per_image must be at least 1; got {tokens_per_image}.")
        side = math.isqrt(tokens_per_image)
        grid = Grid(side, side) if side**2 == tokens_per_image else Grid(1, tokens_per_image)
        return cls._build(
            vocabulary_map,
            _Positions(grid),
            vocab_size=vocab_size,
            special_ids=special_ids,
            picture_grammar="chameleon",
        )

    @classmethod
    def _build(
        cls,
        vocabulary_map: Mapping[str, int],
        positions: _Positions,
        *,
        vocab_size: int | None,
        special_ids: Iterable[int] | None,
        picture_grammar: str | Mapping[str, Any],
        segment_grammars: Mapping[str, SegmentGrammarLike] = MappingProxyType({}),
    ) -> TokenLayout:
        size = max(vocabulary_map.values(), default=-1) + 1 if vocab_size is None else vocab_size
        name_of = _inverse(vocabulary_map, size)
        needed = _specials(vocabulary_map)
        code_to_id_Z = torch.tensor(_ids_in_order_of_codes(vocabulary_map))
        id_to_code_V = torch.full((size,), -1)
        id_to_code_V[code_to_id_Z] = torch.arange(len(code_to_id_Z))
        picture_ids = frozenset(code_to_id_Z.tolist())
        if special_ids is None:
            special_ids = (id_ for name, id_ in vocabulary_map.items() if name.startswith("<") and name != "<")
        pictures = picture_format(
            picture_grammar,
            GrammarContext(
                token_ids=vocabulary_map,
                code_ids=code_to_id_Z.tolist(),
                begin_image_id=needed["begin_image_id"],
                end_image_id=needed["end_image_id"],
                **positions._asdict(),
            ),
        )
        of_codecs = (grammar.ids for grammar in segment_grammars.values())
        special_ids = frozenset(special_ids).union(needed.values(), pictures.marker_ids, *of_codecs) - picture_ids
        text_allowed_V = torch.zeros(size, dtype=torch.bool)
        text_allowed_V[sorted(name_of.keys() - special_ids - picture_ids)] = True
        return cls(
            code_to_id_Z=code_to_id_Z,
            id_to_code_V=id_to_code_V,
            text_allowed_V=text_allowed_V,
            tokens_per_image=positions.num_codes,
            special_ids=special_ids,
            picture_ids=picture_ids,
            pictures=pictures,
            segment_grammars=dict(segment_grammars),  # a view can't be copied
            **needed,
        )


def added_name(token_id: int) -> str:
    """Return the name that a ``vocabulary_map`` has for an id that ``resize_token_embeddings`` added."""
    return f"added token {token_id}"


MAX_LEVELS = 31
"""The most levels of an image tokenizer, each of half the resolution of the one before."""


class _Positions(NamedTuple):
    """What an image tokenizer makes of a picture of its own resolution."""

    grid: Grid
    codes_per_position: int = 1
    stride: int = 16

    @property
    def num_codes(self) -> int:
        return self.grid.height * self.grid.width * self.codes_per_position


def tokens_per_image(vq_config: Mapping[str, Any] | None) -> int:
    """Return how many codes one picture takes, from the config of its image tokenizer.

    Every level after the first halves the resolution. Absent entries have the defaults of ``transformers``: 512 pixels
    and five levels. ``codes_per_position`` is how many codes a quantizer spends on one position of the grid.
    Raises ``ConfigError`` for impossible values.
    """
    return _positions(vq_config).num_codes


def _positions(vq_config: Mapping[str, Any] | None) -> _Positions:
    vq_config = vq_config or {}
    resolution = vq_config.get("resolution", 512)
    multiplier = vq_config.get("channel_multiplier", vq_config.get("ch_mult", (1, 1, 2, 2, 4)))
    codes_per_position = vq_config.get("codes_per_position", 1)
    if not isinstance(multiplier, list | tuple) or not 0 < len(multiplier) <= MAX_LEVELS:
        raise ConfigError(
            f"vq_config.channel_multiplier must have 1…{MAX_LEVELS} factors, one a level; got {shown(multiplier)}."
        )
    for name, value in (("resolution", resolution), ("codes_per_position", codes_per_position)):
        if type(value) is not int or not 1 <= value < 2**31:
            raise ConfigError(f"vq_config.{name} must be an integer ≥ 1 and < 2³¹; got {shown(value)}.")
    stride = 2 ** (len(multiplier) - 1)
    if resolution % stride:
        raise ConfigError(f"vq_config.resolution must be a multiple of its levels' stride {stride}; got {resolution}.")
    side = resolution // stride
    return _Positions(Grid(side, side), codes_per_position, stride)


def _inverse(vocabulary_map: Mapping[str, int], size: int) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, id_ in vocabulary_map.items():
        if not 0 <= id_ < size:
            raise VocabularyError(f"the id of {name!r} must be from 0 to {size - 1}; got {id_}.")
        other = names.setdefault(id_, name)
        if other != name and {other, name} != set(PLACEHOLDERS):
            raise VocabularyError(f"{other!r} and {name!r} have the same id, {id_}. Give each name an id of its own.")
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
