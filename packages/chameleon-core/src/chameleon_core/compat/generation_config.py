"""``model.generation_config`` and ``GenerationConfig``: options with the fields of ``transformers``.

That of a model has no values of its own: it reads and replaces ``model.generation_options``, so that both always agree.
A ``GenerationConfig`` stands alone, as the argument of ``generate`` of that name.
"""

from __future__ import annotations

import difflib
import json
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .._commits import stored
from .._files import read_json, write_json, writing
from .._hub import HubOptions, find_folder, push_saved, take_push_options
from ..errors import ArgumentError, ConfigError
from ..formats import GENERATION_FILE
from ..generation import GenerationOptions
from ..generation.foreign_fields import ABOUT_THE_FILE, OF_THE_CALL, REFUSED, SAME, TRANSLATED
from .generation_fields import AT_THE_CALL, check_call_fields, field_changes, refuse_field

FIELDS = frozenset({*SAME, *TRANSLATED, *OF_THE_CALL, *REFUSED, *ABOUT_THE_FILE})
"""The fields of ``transformers``."""
OWN = frozenset(GenerationOptions.__struct_fields__) - {"extras"}
"""The fields of ``GenerationOptions``."""
_DEFAULTS = GenerationOptions()
_NO_MODEL = SimpleNamespace(config=SimpleNamespace(eos_token_ids=()))
"""Stands for a model where fields are checked without one."""


class GenerationFields:
    """What options with the fields of ``transformers`` are asked for, a model's and those that stand alone."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in FIELDS | OWN:
            raise AttributeError(f"generation_config has no field {name!r}.")
        return self._read(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.update(**{name: value})

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **fields: Any) -> dict[str, Any]:
        """Change fields, with ``defaults_only`` those that aren't set; return those that weren't changed, none.

        Raises ``ConfigError`` for other names, which ``allow_custom_entries`` can't make fields, and for values that
        can't be used; nothing is changed then.
        """
        if allow_custom_entries:
            raise ConfigError("allow_custom_entries=True isn't available: nothing would read them. Leave it out.")
        for name in fields:
            if name not in FIELDS | OWN:
                raise ConfigError(f"generation_config has no field {name!r}; {closest(name, FIELDS | OWN)}")
        self._change({name: each for name, each in fields.items() if not (defaults_only and self._is_set(name))})
        return {}

    if TYPE_CHECKING:

        def to_dict(self) -> dict[str, Any]:
            """Return the fields that are set, as ``generation_config.json`` has them."""

        def _read(self, name: str) -> Any:
            """Return the value of a field."""

        def _change(self, fields: Mapping[str, Any]) -> None:
            """Set fields, all of them or none."""

    def _is_set(self, name: str) -> bool:
        return self._read(name) is not None

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what ``to_dict`` returns."""
        return self.to_dict()

    def to_json_string(
        self, use_diff: bool = True, ignore_metadata: bool = False, keys_to_pop: Collection[str] | None = None
    ) -> str:
        """Return ``to_dict`` as JSON, sorted, without ``keys_to_pop``; there is no other form of it."""
        return json.dumps(self._kept(keys_to_pop), indent=2, sort_keys=True) + "\n"

    def to_json_file(
        self,
        json_file_path: str | os.PathLike[str],
        use_diff: bool = True,
        keys_to_pop: Collection[str] | None = None,
    ) -> None:
        """Write ``to_json_string`` to a file. Raises ``FileAccessError`` where it can't be written."""
        with writing(json_file_path):
            write_json(json_file_path, self._kept(keys_to_pop))

    def _kept(self, left_out: Collection[str] | None) -> dict[str, Any]:
        return {name: value for name, value in self.to_dict().items() if name not in (left_out or ())}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        config_file_name: str | None = None,
        push_to_hub: bool = False,
        **upload: Any,
    ) -> None:
        """Write ``generation_config.json``, or a file of another name, in a folder; upload it with ``push_to_hub``.

        ``upload`` are ``repo_id``, by default the folder's name, and the options of ``push_to_hub``.
        """
        arguments = {"push_to_hub": push_to_hub, **upload}
        push = take_push_options(arguments)
        for name in arguments:
            raise ArgumentError(f"save_pretrained() of a generation_config has no argument {name!r}.")
        self.to_json_file(Path(save_directory) / (config_file_name or GENERATION_FILE))
        if push is not None:
            self.push_to_hub(push.pop("repo_id", None) or Path(save_directory).resolve().name, **push)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the options to a repository of the Hub, made where there is none; return the commit's address."""
        return push_saved(self.save_pretrained, repo_id, options)

    def get_generation_mode(self, assistant_model: Any = None) -> str:
        """Return how ids are found, by the name that ``transformers`` has for it.

        It is "greedy_search", "sample", "beam_search", "beam_sample" or "assisted_generation".
        """
        decoding = self.decoding or "plain"
        strategy = decoding if isinstance(decoding, str) else decoding.get("name")
        if strategy == "beam" or (self.num_beams or 1) > 1:
            return "beam_sample" if self.do_sample else "beam_search"
        if strategy in ("draft", "lookup") or assistant_model is not None or self.prompt_lookup_num_tokens:
            return "assisted_generation"
        return "sample" if self.do_sample else "greedy_search"

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name: str | os.PathLike[str], config_file_name: str | None = None, **arguments: Any
    ) -> GenerationConfig:
        """Read the options of a folder, a registered name or a Hub id, as a ``GenerationConfig``.

        ``arguments`` are fields that replace those of the file, and those of ``HubOptions``. Raises
        ``MissingFileError`` where nothing is found.
        """
        options = HubOptions.taken_from(arguments)
        folder = find_folder(pretrained_model_name, options, what="the options of generation")
        path = stored(folder, config_file_name or GENERATION_FILE)
        return cls.from_dict({**read_json(path), **arguments}, source=str(path))

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, source: str = GENERATION_FILE, **changes: Any
    ) -> GenerationConfig:
        """Return the ``GenerationConfig`` of a mapping, whose unknown entries are left out, with a warning."""
        unknown = sorted(name for name in config_dict if name not in FIELDS | OWN)
        if unknown:
            warnings.warn(f"{source}: left out {', '.join(map(repr, unknown))}, which nothing reads.", stacklevel=3)
        known = {name: value for name, value in config_dict.items() if name in FIELDS | OWN}
        return GenerationConfig(**{**known, **changes})

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """Return the ``GenerationConfig`` with the special ids of a model's configuration."""
        ids = {name: getattr(model_config, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return GenerationConfig(**{name: value for name, value in ids.items() if value is not None})


class GenerationConfigView(GenerationFields):
    """The options of a model under the names that ``GenerationConfig`` of ``transformers`` has, and those here.

    Setting an attribute checks the value and changes ``model.generation_options``. Raises ``ConfigError`` for names
    that neither has, and for values that can't be used.
    """

    __slots__ = ("_model",)

    def __init__(self, model: Any) -> None:
        object.__setattr__(self, "_model", model)

    @property
    def options(self) -> GenerationOptions:
        """The options of the model."""
        options: GenerationOptions = self._model.generation_options
        return options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"

    def _change(self, fields: Mapping[str, Any]) -> None:
        self._model.generation_options = changed_options(self._model, self.options, fields)

    def _is_set(self, name: str) -> bool:
        if name in OWN:
            return bool(getattr(self.options, name) != getattr(_DEFAULTS, name))
        return super()._is_set(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as ``generation_config.json`` has them."""
        return self.options.to_file_dict(self._model.config)

    def validate(self, strict: bool = False, user_set_attributes: object = None) -> None:
        """Check the options. Raises ``ConfigError``; the arguments make no difference, for each error is one here."""
        self.options.check()

    def _read(self, name: str) -> Any:
        options, config = self.options, self._model.config
        if name in OWN:
            return getattr(options, name)
        if name == "eos_token_id":
            ends = config.eos_token_ids if options.eos_token_ids is None else options.eos_token_ids
            ids = list(dict.fromkeys((*ends, *options.stop_ids)))
            return ids if len(ids) > 1 else next(iter(ids), None)
        if name == "suppress_tokens":
            return list(options.forbidden_ids) or None
        if name == "bad_words_ids":
            return [list(each) for each in options.forbidden_sequences] or None
        if name == "pad_token_id":
            return self._model.pad_token_id
        if name == "bos_token_id":
            return options.extras.get(name, config.bos_token_id)
        return options.extras.get(name)


class GenerationConfig(GenerationFields):
    """Options of generation without a model, for ``generate(generation_config=...)`` and ``model.generation_config``.

    Its fields are those of ``transformers``' class and of ``GenerationOptions``, checked where they are set. One that
    isn't set is None, and is then the model's. Raises ``ConfigError`` for other names, and for values that can't be
    used.
    """

    def __init__(self, **fields: Any) -> None:
        self.update(**fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # its fields can change

    def _read(self, name: str) -> Any:
        return self.__dict__.get(name)

    def _change(self, fields: Mapping[str, Any]) -> None:
        changed = {name: value for name, value in {**vars(self), **fields}.items() if value is not None}
        changed_options(_NO_MODEL, _DEFAULTS, changed)
        self.__dict__.clear()
        self.__dict__.update(changed)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as ``generation_config.json`` has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def validate(self, strict: bool = False, user_set_attributes: object = None) -> None:
        """Check the fields. Raises ``ConfigError``; the arguments make no difference, for each error is one here."""
        self._change({})


def changed_options(model: Any, options: GenerationOptions, fields: Mapping[str, Any]) -> GenerationOptions:
    """Return options for a model with some fields changed, of ``transformers`` or of ``GenerationOptions``."""
    for name in fields.keys() & REFUSED.keys():
        refuse_field(name, fields[name])
    check_call_fields(fields)
    kept = AT_THE_CALL | ABOUT_THE_FILE | REFUSED.keys()
    extras = {name: value for name, value in options.extras.items() if name not in fields}
    extras |= {name: value for name, value in fields.items() if name in kept and value is not None}
    rest = {name: value for name, value in fields.items() if name not in kept}
    return options.replace(**field_changes(options, rest, model.config.eos_token_ids)).with_extras(extras)


def options_from(model: Any, given: object) -> GenerationOptions:
    """Return the options of a model that a ``generation_config`` of any kind replaces them by."""
    if isinstance(given, GenerationConfigView):
        return given.options
    if isinstance(given, GenerationOptions):
        return given
    return changed_options(model, GenerationOptions(), given_fields(given))


def given_fields(given: object) -> dict[str, Any]:
    """Return the fields that aren't None of anything that stands for a ``GenerationConfig``.

    Raises ``ConfigError`` for a name that isn't a field, ``ArgumentError`` for an object without fields.
    """
    fields = given if isinstance(given, Mapping) else getattr(given, "__dict__", None)
    # Its to_dict would write what an object of a field has, such as a watermark, as a dictionary.
    if not isinstance(fields, Mapping) or callable(given):
        raise ArgumentError(
            f"generation_config is {given!r:.80}; expected GenerationOptions, a GenerationConfig or a dictionary."
        )
    found = {
        name: value
        for name, value in fields.items()
        if value is not None and not name.startswith("_") and name not in ABOUT_THE_FILE
    }
    for name in found:
        if name not in FIELDS | OWN:
            raise ConfigError(f"generation_config has a field {name!r}; {closest(name, FIELDS | OWN)}")
    return found


def closest(name: str, names: Iterable[str]) -> str:
    """Return the end of an error about a name: which of some others is the closest."""
    close = difflib.get_close_matches(name, sorted(names), n=1)
    return f"did you mean {close[0]!r}?" if close else "see the fields of GenerationOptions."
