"""The files of a processor in a model's folder, as ``transformers`` names and fills them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ._commits import committing, read_whole, stored
from ._files import read_json, reading, write_json, writing
from .compat.text_arguments import UNLIMITED
from .compat.tokenizer_calls import TokenizerCalls
from .errors import ChameleonTextError, ConfigError, FileFormatError, MissingFileError
from .vocabulary import (
    BEGIN_IMAGE,
    BEGIN_OF_STREAM,
    END_IMAGE,
    END_OF_STREAM,
    IMAGE_PLACEHOLDER,
    IMAGE_PLACEHOLDER_AS_PUBLISHED,
    PAD,
    SEPARATOR,
)

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_CONFIG = "processor_config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
MODEL_CONFIG = "config.json"
CHAT_TEMPLATE = "chat_template.jinja"
CHAT_TEMPLATE_FOLDER = "additional_chat_templates"
OLD_CHAT_TEMPLATE = "chat_template.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
OTHER_TOKENIZERS = ("tokenizer.model", "vocab.json", "merges.txt", "sentencepiece.bpe.model")
"""Files of tokenizers that ``transformers`` converts and this package doesn't read."""


_NAMES = {
    "bos_token": BEGIN_OF_STREAM,
    "eos_token": END_OF_STREAM,
    "pad_token": PAD,
    "sep_token": SEPARATOR,
    "boi_token": BEGIN_IMAGE,
    "eoi_token": END_IMAGE,
}
"""The names that ``transformers`` has for the special tokens, and the tokens."""
_DEFAULTS = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
"""What a ``tokenizer_config.json`` says if the one that was read doesn't."""
_FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")


class ProcessorFolder:
    """What a folder says of a processor. ``configs`` has its configs as they are, empty where there is none."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raise ``MissingFileError`` without a ``tokenizer.json``, ``FileFormatError`` for a broken file."""
        try:
            self._path = Path(folder)
        except TypeError as error:
            raise ConfigError(f"the folder is a {type(folder).__name__}, expected a path.") from error
        self.path = self._path
        data, self.configs, self._templates = read_whole(self._path, self._read)
        described = _described(self.configs[TOKENIZER_CONFIG].get("added_tokens_decoder"))
        self.tokenizer_data = _with_flags(data, described)
        self.source = os.fspath(self._path / TOKENIZER)

    def set_up(self, tokenizer: TokenizerCalls) -> None:
        """Set what the configs say on the tokenizer, as ``transformers`` does."""
        config = self.configs[TOKENIZER_CONFIG]
        if self.padding_side is not None:
            tokenizer.padding_side = self.padding_side
        if config.get("truncation_side") in ("left", "right"):
            tokenizer.truncation_side = config["truncation_side"]
        length = config.get("model_max_length")
        if isinstance(length, (int, float)) and 1 <= length < UNLIMITED:
            tokenizer.model_max_length = int(length)
        pad_token = _content(config.get("pad_token"))
        if isinstance(pad_token, str) and pad_token in tokenizer.token_ids:
            tokenizer.pad_token = pad_token
        tokenizer.chat_template = self._chat_template()

    def _chat_template(self) -> Any:
        """Return the folder's template in Jinja, or several by name; None where it has none."""
        if self._templates:
            return self._templates["default"] if self._templates.keys() == {"default"} else self._templates
        for name in (PROCESSOR_CONFIG, TOKENIZER_CONFIG):
            template = self.configs[name].get("chat_template")
            if isinstance(template, list) and all(isinstance(each, dict) for each in template):
                template = {str(each.get("name")): each.get("template") for each in template}
            if isinstance(template, (str, dict)):
                return template
        return None

    def _read_templates(self) -> dict[str, Any]:
        """Return the templates of files of their own, by name; "default" is the one that is used unless told."""
        templates: dict[str, Any] = {}
        path = stored(self._path, CHAT_TEMPLATE)
        for file in (path, *sorted((self._path / CHAT_TEMPLATE_FOLDER).glob("*.jinja"))):
            if os.path.isfile(file):
                with reading(file):
                    text = file.read_bytes().decode("utf-8", "replace")
                templates["default" if file == path else file.stem] = text
        if not templates and isinstance(old := self._tolerated(OLD_CHAT_TEMPLATE).get("chat_template"), str):
            templates["default"] = old
        return templates

    def _read(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
        """Return the tokenizer's file, the configs, and the chat templates."""
        try:
            data = read_json(stored(self._path, TOKENIZER))
        except MissingFileError as error:
            others = [name for name in OTHER_TOKENIZERS if os.path.isfile(stored(self._path, name))]
            if others:
                raise MissingFileError(
                    f"{self._path} has {others[0]} and no {TOKENIZER}, which is the only one that is read. Convert it: "
                    "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
                ) from error
            raise MissingFileError(
                f"{self._path / TOKENIZER} doesn't exist, the file that a model's folder has its tokenizer in; "
                "save_pretrained of a processor or a fast tokenizer writes it."
            ) from error
        configs = {name: self._optional(name) for name in (TOKENIZER_CONFIG, PROCESSOR_CONFIG)}
        # Those of the pictures and of the model: a fault in them is reported by those who need them.
        configs |= {name: self._tolerated(name) for name in (PREPROCESSOR_CONFIG, MODEL_CONFIG)}
        return data, configs, self._read_templates()

    def not_done(self, tokenizer: TokenizerCalls) -> Iterator[str]:
        """Yield a clause for each thing that the configs ask for and that this package doesn't do."""
        config = self.configs[TOKENIZER_CONFIG]
        nested = config.get("extra_special_tokens")
        for field, own in _NAMES.items():
            if field == "pad_token" and _content(config.get(field)) == tokenizer.pad_token:
                continue
            for place in (config, nested if isinstance(nested, dict) else {}):
                token = _content(place.get(field))
                if token is not None and token != own:
                    yield f"{field} is {token!r:.80} in {TOKENIZER_CONFIG}, and {own!r} is used"
                    break
        prefix, suffix = tokenizer.prefix_ids, tokenizer.suffix_ids
        if config.get("add_bos_token") is False and prefix:
            yield f"add_bos_token is false in {TOKENIZER_CONFIG}, and the post-processor of {TOKENIZER} is done"
        if config.get("add_eos_token") is True and not suffix:
            yield f"add_eos_token is true in {TOKENIZER_CONFIG}, and the post-processor of {TOKENIZER} is done"
        if config.get("add_prefix_space") is True:
            yield "no space is put before a text (add_prefix_space), because it would come back with it"
        if config.get("clean_up_tokenization_spaces") is True:
            yield "decoded text is left as it is (clean_up_tokenization_spaces)"
        others = list(_otherwise(_described(config.get("added_tokens_decoder")), tokenizer.added_tokens()))
        if others:
            more = f" and {len(others) - 8} more" if len(others) > 8 else ""
            yield f"{', '.join(others[:8])}{more} are as {TOKENIZER} has them, not as {TOKENIZER_CONFIG} does"
        yield from self._not_done_in_old_files(config, tokenizer)

    def _not_done_in_old_files(self, config: Mapping[str, Any], tokenizer: TokenizerCalls) -> Iterator[str]:
        """Yield what files of older releases of ``transformers`` say differently."""
        named = self._tolerated(SPECIAL_TOKENS_MAP)
        for field, own in _NAMES.items():
            token = _content(named.get(field))
            if isinstance(token, str) and token != own and config.get(field) is None:
                yield f"{field} is {token!r:.80} in {SPECIAL_TOKENS_MAP}, and {own!r} is used"
        added = self._tolerated(ADDED_TOKENS)
        absent = [name for name, token_id in added.items() if tokenizer.token_ids.get(name) != token_id]
        if absent:
            more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
            listed = ", ".join(f"{name!r:.80}" for name in absent[:8])
            yield f"{listed}{more} of {ADDED_TOKENS} aren't in {TOKENIZER} under these ids, and aren't used"

    def _tolerated(self, name: str) -> dict[str, Any]:
        """Return an optional file that nothing here needs, {} where it can't be read."""
        with contextlib.suppress(ChameleonTextError):
            return self._optional(name)
        return {}

    def sized_pictures(self) -> Iterator[str]:
        """Yield a clause where the model's pictures are written by another grammar than that of one size."""
        requested = self.configs[MODEL_CONFIG].get("picture_grammar", "chameleon")
        name = requested.get("name") if isinstance(requested, dict) else requested
        if name != "chameleon":
            yield (
                f"its pictures are written by the picture grammar {name!r:.80}, which this package needs "
                "picture_format=model.layout.pictures of chameleon-core for; pictures are written as those of one size"
            )

    def _optional(self, name: str) -> dict[str, Any]:
        try:
            return read_json(stored(self._path, name))
        except MissingFileError:
            return {}

    @property
    def image_token(self) -> str:
        """The placeholder's name. The tokenizer's config wins over the processor's, as in ``transformers``."""
        for name in (TOKENIZER_CONFIG, PROCESSOR_CONFIG):
            token = self.configs[name].get("image_token")
            if token is not None:
                token = str(self._typed(name, "image_token", _content(token), str))
                # A prompt spells it <image>, even if the vocabulary still has Meta's name for it.
                return IMAGE_PLACEHOLDER if token == IMAGE_PLACEHOLDER_AS_PUBLISHED else token
        return IMAGE_PLACEHOLDER

    @property
    def image_seq_length(self) -> int | None:
        """The number of placeholders for one picture, or None where the folder doesn't say."""
        value = self.configs[PROCESSOR_CONFIG].get("image_seq_length")
        return None if value is None else int(self._typed(PROCESSOR_CONFIG, "image_seq_length", value, int))

    @property
    def padding_side(self) -> Any:
        """``left`` or ``right``, or None where the folder doesn't say."""
        side = self.configs[TOKENIZER_CONFIG].get("padding_side")
        if side not in ("left", "right", None):
            raise FileFormatError(
                f"{self._path / TOKENIZER_CONFIG}: padding_side is {side!r:.80}, expected 'left' or 'right'."
            )
        return side

    def _typed(self, file: str, field: str, value: Any, kind: type) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FileFormatError(f"{self._path / file}: {field} is {value!r:.80}, expected {kind.__name__}.")
        return value


def _described(decoder: Any) -> dict[int, dict[str, Any]]:
    """Return the added tokens of a ``tokenizer_config.json`` by their ids, which are strings there."""
    items = decoder.items() if isinstance(decoder, dict) else ()
    return {
        int(token_id) if token_id.isascii() and token_id.isdecimal() and len(token_id) < 12 else -1: token
        for token_id, token in items
        if isinstance(token, dict)
    }


def _otherwise(described: Mapping[int, Mapping[str, Any]], added: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the added tokens that aren't as the tokenizer's config describes them."""
    known = {token["id"]: token for token in added}
    for token_id, token in described.items():
        own = known.get(token_id, {})
        if any(token.get(field, own.get(field)) != own.get(field) for field in ("content", *_FLAGS)):
            yield f"{token.get('content')!r:.80}"


def _with_flags(data: dict[str, Any], described: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` with the flags of the tokenizer's config, which win in ``transformers``."""
    added = data.get("added_tokens")
    if not described or not isinstance(added, list):
        return data
    tokens = []
    for token in added:
        token_id = token.get("id") if isinstance(token, dict) else None
        other = described.get(token_id, {}) if isinstance(token_id, int) else {}
        if other.get("content") == (token.get("content") if isinstance(token, dict) else None):
            token = {**token, **{flag: other[flag] for flag in _FLAGS if isinstance(other.get(flag), bool)}}
        tokens.append(token)
    return {**data, "added_tokens": tokens}


def _content(token: Any) -> Any:
    """Return the name of a token, which may be written as an object."""
    return token.get("content") if isinstance(token, dict) else token


def write_folder(
    folder: str | os.PathLike[str],
    *,
    tokenizer: TokenizerCalls,
    image_token: str,
    image_seq_length: int,
    image_processor: object,
    chat_template: Any,
    configs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a processor's files in one commit; the configs keep what ``configs`` has beyond the entries written here.

    Raises ``FileAccessError`` where they can't be written.
    """
    path = Path(folder)
    own = {**tokenizer_settings(tokenizer), "processor_class": "ChameleonProcessor"}
    for place in (own, own["extra_special_tokens"]):
        place["image_token"] = image_token
    tokenizer_config = _DEFAULTS | dict(configs.get(TOKENIZER_CONFIG, {})) | own
    processor_config = {
        **configs.get(PROCESSOR_CONFIG, {}),
        "processor_class": "ChameleonProcessor",
        "image_seq_length": image_seq_length,
        "image_token": image_token,
    }
    to_dict = getattr(image_processor, "to_dict", None)
    constants = configs.get(PREPROCESSOR_CONFIG) if to_dict is None else to_dict()
    if to_dict is not None:
        # Older folders have these constants in a file of their own, newer ones in the processor's config.
        processor_config["image_processor"] = constants
    with writing(path), committing(path) as save:
        if "image_processor" not in processor_config:
            # What another writer said of pictures is no business of a processor that reads none.
            with contextlib.suppress(ChameleonTextError):
                there = read_json(stored(path, PROCESSOR_CONFIG)).get("image_processor")
                processor_config |= {} if there is None else {"image_processor": there}
        (save / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        write_json(save / TOKENIZER_CONFIG, tokenizer_config)
        if constants:
            write_json(save / PREPROCESSOR_CONFIG, constants)
        write_json(save / PROCESSOR_CONFIG, processor_config)
        write_chat_template(save, chat_template)


def write_tokenizer(folder: str | os.PathLike[str], tokenizer: TokenizerCalls) -> tuple[str, ...]:
    """Write a tokenizer's files in one commit, and return their paths. Raises ``FileAccessError``."""
    path = Path(folder)
    with writing(path), committing(path) as save:
        (save / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        write_json(save / TOKENIZER_CONFIG, _DEFAULTS | tokenizer_settings(tokenizer))
        write_chat_template(save, tokenizer.chat_template)
    return tuple(os.fspath(path / name) for name in (TOKENIZER_CONFIG, CHAT_TEMPLATE, TOKENIZER))


def tokenizer_settings(tokenizer: TokenizerCalls) -> dict[str, Any]:
    """Return what a ``tokenizer_config.json`` says of a tokenizer."""
    named = tokenizer.special_tokens_map
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")
    pictures: dict[str, Any] = {
        name: named[name] for name in ("image_token", "boi_token", "eoi_token") if name in named
    }
    settings: dict[str, Any] = {
        **{name: named[name] for name in names if name in named},
        "padding_side": tokenizer.padding_side,
        # transformers reads these names from the mapping in newer versions, from the top in older ones.
        "extra_special_tokens": pictures,
        **pictures,
    }
    if tokenizer.truncation_side != "right":
        settings["truncation_side"] = tokenizer.truncation_side
    if tokenizer.model_max_length < UNLIMITED:
        settings["model_max_length"] = tokenizer.model_max_length
    return settings


def write_chat_template(save: Path, template: Any) -> None:
    """Write one template in Jinja as ``chat_template.jinja``, or several by name as ``transformers`` does."""
    named = template if isinstance(template, dict) else {"default": template}
    for name, text in named.items():
        path = save / CHAT_TEMPLATE if name == "default" else save / CHAT_TEMPLATE_FOLDER / f"{name}.jinja"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
