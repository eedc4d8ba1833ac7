"""The vocabulary: which ids stand for picture codes, which are special, and which are text.

Everything follows from the names of the tokens, never from the order of their ids.

Which names are special is one rule, which ``chameleon_core.layout`` keeps too:

- The names of picture codes (``IMGIMGAZ``) are never special, whatever else is said of them.
- The names that Chameleon needs (``REQUIRED_NAMES`` and the image placeholder) are special.
- An added token of a ``tokenizer.json`` is what its own ``special`` flag says.
- A name that the BPE of a ``tokenizer.json`` merges from letters, such as ``</`` or ``<div>``, is text.
- Of all other names, those that begin with ``<`` are special, except ``<`` itself. This is the rule of Meta's release,
  whose tokenizer splits off every punctuation mark, so that no piece of text has ``<`` and more.

Names alone, a ``vocabulary_map`` for instance, tell nothing of flags and merges; only the first two points and the last
apply to them. Where there is a tokenizer, ``TextTokenizer.special_ids`` has the full verdict.

Shapes: Z picture codes in all, V ids in all, N codes of a picture, T ids or values of a row.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import VocabularyError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BEGIN_OF_STREAM = "<s>"
END_OF_STREAM = "</s>"
PAD = "<pad>"
BEGIN_IMAGE = "<racm3:break>"
END_IMAGE = "<eoss>"
SEPARATOR = "<reserved08706>"
IMAGE_PLACEHOLDER = "<image>"
IMAGE_PLACEHOLDER_AS_PUBLISHED = "<reserved08707>"
"""Meta's name of the token that later files call ``<image>``. Either is accepted."""

REQUIRED_NAMES = (BEGIN_OF_STREAM, END_OF_STREAM, PAD, BEGIN_IMAGE, END_IMAGE, SEPARATOR)
_ALWAYS_SPECIAL = frozenset((*REQUIRED_NAMES, IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER_AS_PUBLISHED))

_PICTURE_NAME = re.compile(r"IMGIMG([A-J]{1,18})Z", re.ASCII)
"""A code of 19 digits and more is none: no vocabulary has as many names."""
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")
_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")


def picture_name(code: int) -> str:
    """Return the name of the token that stands for a code: ``picture_name(257) == "IMGIMGCFHZ"``."""
    return f"IMGIMG{str(code).translate(_LETTERS)}Z"


def code_of_name(name: str) -> int | None:
    """Return the code that a token's name stands for, or None where it isn't a picture code's."""
    match = _PICTURE_NAME.fullmatch(name)
    return int(match[1].translate(_DIGITS)) if match else None


def special_names(names: Iterable[str], *, flagged: Collection[str] = (), text: Collection[str] = ()) -> frozenset[str]:
    """Return the special ones of a vocabulary's names, by the rule that the head of this module states.

    ``flagged`` are the added tokens that a tokenizer file flags as special. ``text`` are the names that it makes text:
    those that its merges build, and its added tokens without the flag. ``flagged`` wins over ``text``.
    """
    return frozenset(
        name
        for name in names
        if code_of_name(name) is None
        and (name in _ALWAYS_SPECIAL or name in flagged or (name.startswith("<") and name != "<" and name not in text))
    )


def is_special_name(name: str) -> bool:
    """Deprecated: use ``special_names``, which knows required names and picture codes, too."""
    warnings.warn(
        f"{__name__}.is_special_name is deprecated; use {__name__}.special_names.", DeprecationWarning, stacklevel=2
    )
    return name.startswith("<") and name != "<"


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """A checked bijection between picture codes and ids, and the kind of every other id.

    Made by ``from_token_ids``. Ids run from 0 to ``len(vocabulary) - 1``, not necessarily without gaps.
    """

    code_to_id: npt.NDArray[np.int64]
    """Shape [Z], int64: the id of each code. Not writable."""
    id_to_code: npt.NDArray[np.int64]
    """Shape [V], int64: the code of each id, -1 where the id isn't a picture code's. Not writable."""
    bos_id: int
    """The id that begins every stream, ``<s>``."""
    eos_id: int
    """The id that ends an answer, ``</s>``."""
    pad_id: int
    """The id that fills up the shorter rows of a batch, ``<pad>``."""
    begin_image_id: int
    """The id before the codes of a picture, ``<racm3:break>``."""
    end_image_id: int
    """The id after the codes of a picture, ``<eoss>``."""
    separator_id: int
    """The id that ends a user's turn, ``<reserved08706>``."""
    image_placeholder_id: int
    """The id that stands for one code of a picture that is given as pixels, ``<image>``."""
    special_ids: frozenset[int]
    """Every id that is neither text nor a picture code's: those above and all reserved ones."""
    text_ids: frozenset[int]
    """Every id that text is made of."""

    def __repr__(self) -> str:
        return (
            f"Vocabulary({len(self):,} ids: {self.num_codes:,} picture codes, {len(self.text_ids):,} text, "
            f"{len(self.special_ids):,} special)"
        )

    @classmethod
    def from_token_ids(
        cls,
        token_ids: Mapping[str, int],
        *,
        special_ids: Iterable[int] | None = None,
        image_token: str = IMAGE_PLACEHOLDER,
    ) -> Vocabulary:
        """Build and check the vocabulary of ``{name: id}``.

        ``special_ids`` are those of the vocabulary's tokenizer (``TextTokenizer.special_ids``). Without them the names
        alone decide: those that begin with ``<`` are special, except ``<`` itself. That is right for the published
        vocabulary, but a general byte-level one may have ordinary tokens such as ``</``. ``image_token`` is the name of
        the placeholder; ``<image>`` is also found under Meta's name ``<reserved08707>``.

        Raises ``VocabularyError`` with everything that is missing, and where names, ids and codes are not one to one.
        """
        import numpy as np

        if not isinstance(token_ids, Mapping):
            raise VocabularyError(f"the vocabulary is a {type(token_ids).__name__}, expected names and their ids.")
        check_one_to_one(token_ids)
        missing = [repr(name) for name in REQUIRED_NAMES if name not in token_ids]
        placeholder = image_token
        if placeholder == IMAGE_PLACEHOLDER and placeholder not in token_ids:
            placeholder = IMAGE_PLACEHOLDER_AS_PUBLISHED
        if placeholder not in token_ids:
            missing.append(repr(image_token) + (f" (or {placeholder!r})" if placeholder != image_token else ""))
        code_to_name: dict[int, str] = {}
        for name in token_ids:
            code = code_of_name(name)
            if code is None:
                continue
            if code in code_to_name:
                raise VocabularyError(f"{code_to_name[code]!r} and {name!r} both stand for code {code}.")
            code_to_name[code] = name
        if not code_to_name:
            missing.append(f"the names of the codes ({picture_name(0)!r}, …)")
        else:
            highest = max(code_to_name)
            gaps = itertools.islice((code for code in range(highest) if code not in code_to_name), 8)
            missing += [f"{picture_name(code)!r} (code {code})" for code in gaps]
            more = highest + 1 - len(code_to_name) - 8
            missing += [f"and {more} more codes"] if more > 0 else []
        if missing:
            raise VocabularyError(
                f"the vocabulary of {len(token_ids)} tokens lacks {', '.join(missing)}. "
                "Is this the tokenizer.json of a Chameleon model?"
            )
        size = max(token_ids.values()) + 1
        code_to_id_Z = np.array([token_ids[code_to_name[code]] for code in range(len(code_to_name))], dtype=np.int64)
        id_to_code_V = np.full(size, -1, dtype=np.int64)
        id_to_code_V[code_to_id_Z] = np.arange(len(code_to_id_Z))
        code_to_id_Z.flags.writeable = id_to_code_V.flags.writeable = False
        required_ids = {token_ids[name] for name in (*REQUIRED_NAMES, placeholder)}
        if special_ids is None:
            special_ids = (token_ids[name] for name in special_names(token_ids))
        picture_ids = frozenset(code_to_id_Z.tolist())
        all_special_ids = frozenset(required_ids | set(special_ids)) - picture_ids
        return cls(
            code_to_id=code_to_id_Z,
            id_to_code=id_to_code_V,
            bos_id=token_ids[BEGIN_OF_STREAM],
            eos_id=token_ids[END_OF_STREAM],
            pad_id=token_ids[PAD],
            begin_image_id=token_ids[BEGIN_IMAGE],
            end_image_id=token_ids[END_IMAGE],
            separator_id=token_ids[SEPARATOR],
            image_placeholder_id=token_ids[placeholder],
            special_ids=all_special_ids,
            text_ids=frozenset(token_ids.values()) - all_special_ids - picture_ids,
        )

    @property
    def num_codes(self) -> int:
        """How many picture codes there are. Codes run from 0 to ``num_codes - 1``."""
        return len(self.code_to_id)

    def __len__(self) -> int:
        """The number of rows that an embedding needs: the highest id plus one."""
        return len(self.id_to_code)

    def codes_to_ids(self, codes: Sequence[int] | npt.NDArray[np.integer]) -> list[int]:
        """Return the ids of codes. Raises ``VocabularyError`` for a code out of range."""
        codes_N = _one_row(codes, "codes")
        wrong_N = (codes_N < 0) | (codes_N >= self.num_codes)
        if wrong_N.any():
            raise VocabularyError(
                f"code {codes_N[wrong_N][0]} at position {wrong_N.argmax()} is out of range: "
                f"this vocabulary has the codes 0 to {self.num_codes - 1}."
            )
        ids: list[int] = self.code_to_id[codes_N].tolist()
        return ids

    def ids_to_codes(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> list[int]:
        """Return the codes of picture ids. Raises ``VocabularyError`` for an id that isn't a picture code's."""
        import numpy as np

        ids_T = _one_row(ids, "ids")
        known_T = (ids_T >= 0) & (ids_T < len(self))
        codes_T = np.where(known_T, self.id_to_code[np.where(known_T, ids_T, 0)], -1)
        if (codes_T < 0).any():
            position = int((codes_T < 0).argmax())
            raise VocabularyError(f"id {ids_T[position]} at position {position} is not a picture code's.")
        codes: list[int] = codes_T.tolist()
        return codes


def _one_row(values: object, what: str) -> npt.NDArray[np.int64]:
    """Return a row of integers as int64. Raises ``VocabularyError`` for floats, bools, strings and other shapes."""
    import numpy as np

    try:
        values_T = np.asarray(values)
        values_T = values_T.astype(np.int64) if values_T.size == 0 else values_T
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors of other devices
        raise VocabularyError(f"{what} must be one row of integers, not {type(values).__name__}: {error}.") from error
    if values_T.ndim != 1 or values_T.dtype.kind not in "iu":
        raise VocabularyError(f"{what} must be one row of integers, not shape {values_T.shape} of {values_T.dtype}.")
    if values_T.dtype.kind == "u":
        values_T = np.minimum(values_T, np.iinfo(np.int64).max)
    return values_T.astype(np.int64)


def check_one_to_one(token_ids: Mapping[str, int]) -> None:
    """Raise ``VocabularyError`` where ids aren't integers ≥ 0, each of one name, and near the number of names.

    Ids may have gaps, but arrays have a row for each up to the highest, so a file may not state any number.
    """
    names: dict[int, str] = {}
    for name, token_id in token_ids.items():
        if not isinstance(name, str):
            raise VocabularyError(f"the vocabulary has the name {name!r:.80}, expected a str.")
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise VocabularyError(f"the id of {name!r:.80} is {token_id!r:.80}, expected an integer ≥ 0.")
        if token_id in names:
            raise VocabularyError(f"{names[token_id]!r:.80} and {name!r:.80} both have the id {token_id}.")
        names[token_id] = name
    highest = max(names, default=0)
    if highest >= 16 * len(names) + 65_536:
        raise VocabularyError(
            f"{names[highest]!r:.80} has the id {_number(highest)} in a vocabulary of {len(names):,} names, expected "
            f"ids below {16 * len(names) + 65_536:,}. Is the file damaged?"
        )


def _number(value: int) -> str:
    return f"{value:,}" if value < 10**18 else "of more than 18 digits"
