"""``model.generation_config``: the options of a model as an object with the fields of ``transformers``.

It has no values of its own: it reads and replaces ``model.generation_options``, so that both always agree.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .._files import write_json, writing
from ..errors import ArgumentError, ConfigError
from ..generation import GenerationOptions
from ..generation.foreign_fields import ABOUT_THE_FILE, OF_THE_CALL, REFUSED, SAME, TRANSLATED
from .generation_fields import AT_THE_CALL, field_changes, refuse_field

FIELDS = frozenset({*SAME, *TRANSLATED, *OF_THE_CALL, *REFUSED, *ABOUT_THE_FILE})
"""The fields of ``transformers``."""
OWN = frozenset(GenerationOptions.__struct_fields__) - {"extras"}
"""The fields of ``GenerationOptions``."""


class GenerationConfigView:
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

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in OWN:
            return getattr(self.options, name)
        if name not in FIELDS:
            raise AttributeError(f"generation_config has no field {name!r}.")
        return self._theirs(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.update(**{name: value})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def update(self, **fields: Any) -> None:
        """Change fields."""
        for name in fields:
            if name not in FIELDS | OWN:
                raise ConfigError(f"generation_config has no field {name!r}; {closest(name, FIELDS | OWN)}")
        self._model.generation_options = changed_options(self._model, self.options, fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as ``generation_config.json`` has them."""
        return self.options.to_file_dict(self._model.config)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what ``to_dict`` returns."""
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return ``to_dict`` as JSON, sorted; there is no other form of it."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write ``to_json_string`` to a file. Raises ``FileAccessError`` where it can't be written."""
        with writing(json_file_path):
            write_json(json_file_path, self.to_dict())

    def save_pretrained(self, save_directory: str | os.PathLike[str], config_file_name: str | None = None) -> None:
        """Write ``generation_config.json``, or a file of another name, in a folder."""
        self.to_json_file(Path(save_directory) / (config_file_name or "generation_config.json"))

    def validate(self, strict: bool = False) -> None:
        """Check the options. Raises ``ConfigError``; ``strict`` makes no difference, for each error is one here."""
        self.options.check()

    def _theirs(self, name: str) -> Any:
        options, config = self.options, self._model.config
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


def changed_options(model: Any, options: GenerationOptions, fields: Mapping[str, Any]) -> GenerationOptions:
    """Return options for a model with some fields changed, of ``transformers`` or of ``GenerationOptions``."""
    for name in fields.keys() & REFUSED.keys():
        refuse_field(name, fields[name])
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
