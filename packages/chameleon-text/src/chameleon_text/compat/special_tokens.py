"""The names and ids of special tokens as attributes, what users set on a tokenizer, and words that are added to it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import tokenizers

from ..batch import PaddingSide, choice
from ..errors import ConfigError, ReadOnlyError, VocabularyError
from ..tokenizer_file import library
from ..vocabulary import (
    BEGIN_IMAGE,
    BEGIN_OF_STREAM,
    END_IMAGE,
    END_OF_STREAM,
    IMAGE_PLACEHOLDER,
    IMAGE_PLACEHOLDER_AS_PUBLISHED,
    PAD,
    SEPARATOR,
)
from .chat import CHAT_TEMPLATE
from .text_arguments import UNLIMITED

UNKNOWN = "<unk>"
NAMED = {
    "bos_token": BEGIN_OF_STREAM,
    "eos_token": END_OF_STREAM,
    "unk_token": UNKNOWN,
    "sep_token": SEPARATOR,
    "pad_token": PAD,
    "cls_token": None,
    "mask_token": None,
    "image_token": IMAGE_PLACEHOLDER,
    "boi_token": BEGIN_IMAGE,
    "eoi_token": END_IMAGE,
}
"""The names of special tokens in ``transformers``, in its order, and Chameleon's tokens, None where it has none."""
_REASON = (
    "special tokens are those of the tokenizer.json, which the model was trained with. pad_token may be any token of "
    "the vocabulary; for other words there is add_tokens()."
)


class TokenizerSettings(msgspec.Struct, kw_only=True):
    """What users set on a tokenizer, under the names of ``transformers``."""

    padding_side: PaddingSide = "left"
    """Where shorter rows are filled up; by default "left", which generation needs."""
    truncation_side: PaddingSide = "right"
    """Where longer rows are cut; by default "right"."""
    model_max_length: int = UNLIMITED
    """The most ids of a row, ≥ 1; by default 10³⁰, which says that none is known."""
    pad_token: str = PAD
    """The token that shorter rows are filled up with; by default ``<pad>``."""
    split_special_tokens: bool = False
    """Whether the names of special tokens are text in ``tokenizer(text)``; by default not."""
    chat_template: Any = None
    """A template in Jinja for ``apply_chat_template``, or several by name; None, the default, is the built-in one."""
    add_bos_token: bool | None = None
    """Whether texts begin with ``<s>``; None, the default, is what the tokenizer file says."""
    add_eos_token: bool | None = None
    """Whether texts end with ``</s>``; None, the default, is what the tokenizer file says."""


def _token(name: str) -> Any:
    def get(self: SpecialTokens) -> str | None:
        return self._named(name)

    def put(self: SpecialTokens, value: Any) -> None:
        self._rename(name, value)

    return property(get, put, doc=f"The name of the {name}, None where the vocabulary has none.")


def _token_id(name: str) -> Any:
    def get(self: SpecialTokens) -> int | None:
        token = self._named(name)
        return None if token is None else self.token_ids[token]

    def put(self: SpecialTokens, value: Any) -> None:
        if value is not None and value not in self.names:
            raise VocabularyError(f"{name}_id is {value!r:.80}, which has no name in this vocabulary.")
        self._rename(name, None if value is None else self.names[value])

    return property(get, put, doc=f"The id of the {name}, None where the vocabulary has none.")


def _setting(name: str, allowed: tuple[Any, ...] | None = None) -> Any:
    def get(self: SpecialTokens) -> Any:
        return getattr(self._settings, name)

    def put(self: SpecialTokens, value: Any) -> None:
        if allowed is not None:
            choice(name, value, allowed)
        setattr(self._settings, name, value)

    return property(get, put, doc=f"See ``TokenizerSettings.{name}``.")


class SpecialTokens:
    """The part of ``TextTokenizer`` that knows special tokens by the names of ``transformers``."""

    token_ids: dict[str, int]
    names: dict[int, str]
    special_ids: frozenset[int]
    reserved_ids: frozenset[int]
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    _settings: TokenizerSettings
    _json: str
    _backend: tokenizers.Tokenizer | None

    bos_token, bos_token_id = _token("bos_token"), _token_id("bos_token")
    eos_token, eos_token_id = _token("eos_token"), _token_id("eos_token")
    unk_token, unk_token_id = _token("unk_token"), _token_id("unk_token")
    sep_token, sep_token_id = _token("sep_token"), _token_id("sep_token")
    pad_token, pad_token_id = _token("pad_token"), _token_id("pad_token")
    cls_token, cls_token_id = _token("cls_token"), _token_id("cls_token")
    mask_token, mask_token_id = _token("mask_token"), _token_id("mask_token")
    image_token, image_token_id = _token("image_token"), _token_id("image_token")
    boi_token, boi_token_id = _token("boi_token"), _token_id("boi_token")
    eoi_token, eoi_token_id = _token("eoi_token"), _token_id("eoi_token")
    padding_side = _setting("padding_side", ("left", "right"))
    truncation_side = _setting("truncation_side", ("left", "right"))
    split_special_tokens = _setting("split_special_tokens", (True, False))

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens that have a name in ``transformers``, by that name."""
        return {name: token for name in NAMED if (token := self._named(name)) is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens that have a name in ``transformers``; ``special_ids`` has the ids of all."""
        return list(dict.fromkeys(self.special_tokens_map.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of ``all_special_tokens``; ``special_ids`` has those of all special tokens."""
        return [self.token_ids[token] for token in self.all_special_tokens]

    @property
    def extra_special_tokens(self) -> list[str]:
        """The names of special tokens that were added; none, since all are in the tokenizer file."""
        return []

    @property
    def pad_token_type_id(self) -> int:
        """The type of padding, 0: the ids of this model have no types."""
        return 0

    @property
    def model_max_length(self) -> int:
        """The most ids of a row, 10³⁰ where none is known, which may be assigned."""
        return self._settings.model_max_length

    @model_max_length.setter
    def model_max_length(self, length: Any) -> None:
        if isinstance(length, float) and length.is_integer():
            length = int(length)
        if type(length) is not int or length < 1:
            raise ConfigError(f"model_max_length is {length!r:.80}, expected an integer ≥ 1.")
        self._settings.model_max_length = min(length, UNLIMITED)

    @property
    def max_len_single_sentence(self) -> int:
        """The most ids of a text, without what is put around it."""
        return self.model_max_length - len(self.prefix_ids) - len(self.suffix_ids)

    @property
    def max_len_sentences_pair(self) -> int:
        """The most ids of a pair of texts, without what is put around them."""
        return self.model_max_length - 2 * (len(self.prefix_ids) + len(self.suffix_ids))

    @property
    def add_prefix_space(self) -> bool:
        """Whether a space is put before a text: never, since it would come back with it."""
        return False

    @property
    def add_bos_token(self) -> bool:
        """Whether texts begin with ``<s>``, which may be assigned."""
        return bool(self.prefix_ids)

    @add_bos_token.setter
    def add_bos_token(self, add: Any) -> None:
        self._settings.add_bos_token = choice("add_bos_token", add, (True, False))
        self._put_around()

    @property
    def leaves_bos_out(self) -> bool:
        """Whether ``add_bos_token = False`` was assigned, so that no stream begins with ``<s>`` by itself."""
        return self._settings.add_bos_token is False

    @property
    def add_eos_token(self) -> bool:
        """Whether texts end with ``</s>``, which may be assigned."""
        return bool(self.suffix_ids)

    @add_eos_token.setter
    def add_eos_token(self, add: Any) -> None:
        self._settings.add_eos_token = choice("add_eos_token", add, (True, False))
        self._put_around()

    @property
    def clean_up_tokenization_spaces(self) -> bool:
        """Whether decoding changes the spaces of a text: never, since text comes back as it was."""
        return False

    @clean_up_tokenization_spaces.setter
    def clean_up_tokenization_spaces(self, clean: Any) -> None:
        if clean:
            raise ConfigError("clean_up_tokenization_spaces=True would change the text. Leave it False.")

    @property
    def chat_template(self) -> Any:
        """The template in Jinja of conversations, or several by name, which may be assigned."""
        return CHAT_TEMPLATE if self._settings.chat_template is None else self._settings.chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        if template is not None and not isinstance(template, (str, dict)):
            raise ConfigError(
                f"chat_template is a {type(template).__name__}, expected the text of a template in Jinja, or None for "
                "the built-in one."
            )
        self._settings.chat_template = template

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Set several attributes, those of ``TokenizerSettings``. Raises ``ConfigError`` for other names."""
        known = TokenizerSettings.__struct_fields__
        for name, value in settings.items():
            if name == "use_fast" and value in (True, None):
                continue  # there is no other
            if name not in known and not name.endswith("_token"):
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"They are {', '.join(known)}."
                raise ConfigError(f"a tokenizer has no setting {name!r}. {hint}")
            if value is not None:
                setattr(self, name, value)

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any], **arguments: Any) -> int:
        """Add special tokens, ``{"extra_special_tokens": [...], "pad_token": ...}``; return how many are new.

        A named one other than ``pad_token`` must be the one that there is. Raises ``ReadOnlyError`` where it isn't,
        ``ConfigError`` for other names.
        """
        if any(arguments.values()):
            raise ConfigError("special tokens are added to those that there are. Leave replace_… out.")
        added = 0
        for name, value in special_tokens_dict.items():
            if name in ("extra_special_tokens", "additional_special_tokens"):
                added += self.add_tokens(value, special_tokens=True)
            elif name not in NAMED:
                raise ConfigError(f"{name!r:.80} is no kind of special token; expected one of {', '.join(NAMED)}.")
            elif name == "pad_token":
                added += self.add_tokens(value, special_tokens=True)
                self.pad_token = str(value)
            else:
                self._rename(name, str(value))
        return added

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add words to the vocabulary, after its last id, and return how many are new.

        A model needs a row for each: ``model.resize_token_embeddings(len(tokenizer))``. Words (or
        ``tokenizers.AddedToken``) are matched in a text before the BPE; special ones only in ``tokenizer(text)``, as in
        ``transformers``. Raises ``ConfigError`` for what isn't a word.
        """
        tokens = list(new_tokens) if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        data = json.loads(self._json)
        flags = {each["content"]: each for each in data.get("added_tokens") or []}
        added: list[dict[str, Any]] = []
        for token in tokens:
            if not isinstance(token, (str, tokenizers.AddedToken)) or not str(token):
                raise ConfigError(f"a token to add is {token!r:.80}, expected a word that isn't empty.")
            if str(token) in self.token_ids or str(token) in flags:
                continue
            flagged = token if isinstance(token, tokenizers.AddedToken) else None
            described = {
                "id": max(self.names) + 1 + len(added),
                "content": str(token),
                "single_word": flagged is not None and flagged.single_word,
                "lstrip": flagged is not None and flagged.lstrip,
                "rstrip": flagged is not None and flagged.rstrip,
                "normalized": not special_tokens if flagged is None else flagged.normalized,
                "special": special_tokens or (flagged is not None and bool(flagged.special)),
            }
            flags[str(token)] = described
            added.append(described)
        if added:
            data["added_tokens"] = [*(data.get("added_tokens") or []), *added]
            self._renew(data)
        return len(added)

    def _named(self, name: str) -> str | None:
        if name == "pad_token":
            return self._settings.pad_token
        token = NAMED[name]
        if name == "image_token" and token not in self.token_ids:
            token = IMAGE_PLACEHOLDER_AS_PUBLISHED
        return token if token in self.token_ids else None

    def _rename(self, name: str, value: Any) -> None:
        value = None if value is None else str(value)
        if value == self._named(name):
            return
        if name != "pad_token":
            raise ReadOnlyError(f"{name} can't be {value!r:.80}: {_REASON}")
        if value not in self.token_ids:
            raise VocabularyError(
                f"pad_token is {value!r:.80}, which isn't in the vocabulary. Add it first: "
                f"add_special_tokens({{'pad_token': {value!r:.80}}})."
            )
        self._settings.pad_token = value

    def _put_around(self) -> None:
        """Put around texts what was assigned to ``add_bos_token`` and ``add_eos_token``."""
        settings = self._settings
        around = self.__dict__  # both are sealed
        if settings.add_bos_token is not None:
            around["prefix_ids"] = (self.token_ids[BEGIN_OF_STREAM],) if settings.add_bos_token else ()
        if settings.add_eos_token is not None:
            around["suffix_ids"] = (self.token_ids[END_OF_STREAM],) if settings.add_eos_token else ()
        self._backend = None

    def _post_processor(self) -> Any:
        """Return what puts the prefix and the suffix around texts, None where the tokenizer file's own does."""
        if self._settings.add_bos_token is None and self._settings.add_eos_token is None:
            return None
        around = (*self.prefix_ids, *self.suffix_ids)
        first = [f"{self.names[each]}:0" for each in self.prefix_ids]
        last = [f"{self.names[each]}:0" for each in self.suffix_ids]
        single = [*first, "$A:0", *last]
        pair = [*single, *(each.replace(":0", ":1") for each in first), "$B:1", *last]
        with library("what is put around texts can't be used"):
            return tokenizers.processors.TemplateProcessing(
                single=single, pair=pair, special_tokens=[(self.names[each], each) for each in around]
            )

    if TYPE_CHECKING:

        def _renew(self, data: Mapping[str, Any]) -> None:
            """Read another tokenizer file."""
