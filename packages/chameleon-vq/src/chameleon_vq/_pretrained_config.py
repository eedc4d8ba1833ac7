# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""The base of a model's configurations: fields that can be assigned, and the methods that ``transformers`` has.

What ``transformers`` gives every configuration is understood: what describes the model or is only a record is kept, and
what would change the computation there, and doesn't here, is refused.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

import msgspec

from ._commits import stored
from ._config import Config, fields_of
from ._files import read_json, write_json, writing
from ._hub import HubOptions, find_folder, push_saved, take_push_options
from ._pretrained_names import INSTEAD, NAMES, OF_GENERATION, ONLY, RECORDS, WRITTEN, as_dtype, as_kind
from .errors import ConfigError


class PretrainedConfig(Config, frozen=False, dict=True, kw_only=True):  # type: ignore[misc]
    """A configuration whose fields can be assigned until a model is made of it.

    A value is checked against its field where it is assigned, and against the other fields where a model is made or the
    configuration is saved, so that several fields can be changed one after the other. What a model was made of keeps
    its shape: then only the fields in ``assignable_in_a_model`` can be changed.
    """

    model_type: ClassVar[str] = ""
    """What files call this kind of model."""
    config_file: ClassVar[str] = "config.json"
    """The file that ``save_pretrained`` writes."""
    attribute_map: ClassVar[Mapping[str, str]] = {}
    """Other names of fields, as in ``transformers``."""
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    """What a trainer leaves out of the outputs that it gathers."""
    assignable_in_a_model: ClassVar[frozenset[str]] = frozenset()
    """Fields that a model reads each time, so that a change of them has an effect."""

    def __getattr__(self, name: str) -> Any:
        # Called only for what is neither a field nor a method.
        name = NAMES.get(name, type(self).attribute_map.get(name, name))
        if name in self.__struct_fields__:
            return getattr(self, name)
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("name_or_path", "_name_or_path"):
            return self.extras.get("_name_or_path", "")
        if name == "dtype":
            return as_dtype(self.extras.get("dtype") or self.extras.get("torch_dtype"))
        if name == "num_labels":
            return len(self.extras.get("id2label") or ()) or RECORDS[name]
        if name in self.extras:
            return self.extras[name]
        if name in RECORDS:
            return RECORDS[name]
        if name in ONLY:
            return ONLY[name][0]
        raise AttributeError(_no_field(type(self), name))

    def __setattr__(self, name: str, value: Any) -> None:
        name = NAMES.get(name, type(self).attribute_map.get(name, name))
        fields = {field.name: field for field in fields_of(type(self))}
        if name not in fields:
            if isinstance(getattr(type(self), name, None), property):
                self._assign_property(name, value)
                return
            self._set_extras({**self.extras, **_recorded(type(self), name, value)})
            return
        is_made = "_in_a_model" in self.__dict__
        if is_made and name not in type(self).assignable_in_a_model and name != "extras":
            raise ConfigError(
                f"a model was made of this {type(self).__name__} and keeps its {name} ({getattr(self, name)!r:.80}). "
                f"Make another model of config.replace({name}=...)."
            )
        before = getattr(self, name)
        msgspec.structs.force_setattr(self, name, self._checked(fields[name], self._prepared(name, value)))
        self._complete(name)
        if is_made:
            try:
                self.check()
            except ConfigError:
                msgspec.structs.force_setattr(self, name, before)
                raise

    def __delattr__(self, name: str) -> None:
        if name not in self.extras:
            raise AttributeError(f"{type(self).__name__}.{name} can't be deleted; only entries of extras can be.")
        self._set_extras({key: value for key, value in self.extras.items() if key != name})

    def _set_extras(self, extras: dict[str, Any]) -> None:
        msgspec.structs.force_setattr(self, "extras", extras)

    def keep_for_a_model(self, *, attn_implementation: str | None = None) -> None:
        """Check the fields against each other, and fix those that a model is made with. Raises ``ConfigError``.

        ``attn_implementation`` is read as ``_attn_implementation``, as in ``transformers``, and isn't saved.
        """
        self.check()
        self.__dict__.update(_in_a_model=True, _attn_implementation=attn_implementation)

    def _prepared(self, name: str, value: Any) -> Any:
        """Return a value that is assigned to a field, in the form that its type has."""
        return value

    def _complete(self, name: str) -> None:
        """Bring a field that was assigned into its final form."""

    def _assign_property(self, name: str, value: Any) -> None:
        raise ConfigError(f"{type(self).__name__}.{name} follows from the fields and can't be assigned.")

    @classmethod
    def _understood(cls, fields: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Any] = {}
        records: dict[str, Any] = {}
        for given, value in fields.items():
            name = NAMES.get(given, cls.attribute_map.get(given, cls.aliases.get(given, given)))
            if name == "model_type":  # the class says it
                continue
            if name not in cls.__struct_fields__ and (name in RECORDS or name in ONLY or name in cls.known_extras):
                records |= _recorded(cls, name, value)
            else:
                known[name] = value
        return {**known, "extras": {**known.get("extras", {}), **records}} if records else known

    @overload
    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: str = "", return_unused_kwargs: Literal[False] = False, **changes: Any
    ) -> Self: ...
    @overload
    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: str = "", return_unused_kwargs: Literal[True], **changes: Any
    ) -> tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: str = "", return_unused_kwargs: bool = False, **changes: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Read the mapping of a published file, whose unknown entries are kept, with a warning.

        ``source`` names the file in errors and in the warning. ``changes`` are fields that replace those of the
        mapping, all of them fields, unless ``return_unused_kwargs`` returns the others beside the configuration.
        """
        return cls._of_file(data, source)._changed(changes, returns_others=return_unused_kwargs)

    @classmethod
    def _of_file(cls, data: Mapping[str, Any], source: str) -> Self:
        """Return the configuration of a file's mapping."""
        return super().from_dict({name: each for name, each in data.items() if name != "model_type"}, source=source)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping: the kind of model, the fields, and the extras that a file had."""
        return {"model_type": self.model_type, **super().to_dict()}

    @classmethod
    def _is_known(cls, name: str, value: Any) -> bool:
        if name in OF_GENERATION:
            return value is None or value == OF_GENERATION[name]
        return super()._is_known(name, value) or name in WRITTEN or name in RECORDS or name in ONLY

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the mapping of ``config.json`` without the entries that a new configuration has, too."""
        default = _defaults(type(self))
        kept = ("model_type", "architectures")
        return {k: v for k, v in self.to_dict().items() if k in kept or k not in default or v != default[k]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the text of ``config.json``, sorted; ``use_diff`` leaves out what is as by default."""
        data = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write ``to_json_string`` to a file. Raises ``FileAccessError`` where it can't be written."""
        with writing(json_file_path):
            write_json(json_file_path, json.loads(self.to_json_string(use_diff)))

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Read the file of a configuration, whatever its name is."""
        return cls.from_dict(read_json(json_file), source=os.fspath(json_file))

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Change several fields at once, checked together. Raises ``ConfigError``, and nothing is changed then."""
        before = {name: getattr(self, name) for name in self.__struct_fields__}
        try:
            for name, value in config_dict.items():
                setattr(self, name, value)
            self.check()
        except Exception:
            for name, value in before.items():
                msgspec.structs.force_setattr(self, name, value)
            raise

    def update_from_string(self, update_str: str) -> None:
        """Change fields by a text such as ``"hidden_size=64,use_cache=false"``, as the options of scripts have them.

        Raises ``ConfigError`` for what isn't of that form, for names that aren't fields, and for fields that are
        neither a number, a bool nor a text.
        """
        changes = {}
        for part in update_str.split(","):
            name, equals, text = (each.strip() for each in part.partition("="))
            if not equals:
                raise ConfigError(f"update_from_string takes 'name=value,name=value'; got {part!r:.80}.")
            if not self._has_field(name):
                raise ConfigError(_no_field(type(self), name))
            changes[name] = as_kind(name, text, getattr(self, name))
        self.update(changes)

    def validate(self) -> None:
        """Do what ``check`` does: raise ``ConfigError`` where fields contradict each other."""
        self.check()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """Return the configuration of the text model, which is this one, whatever is asked for."""
        return self

    @overload
    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] | None = None,
        *,
        return_unused_kwargs: Literal[False] = False,
        **arguments: Any,
    ) -> Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] | None = None,
        *,
        return_unused_kwargs: Literal[True],
        **arguments: Any,
    ) -> tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] | None = None,
        *,
        return_unused_kwargs: bool = False,
        **arguments: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Read the configuration of a folder, a registered name, a Hub id, or a file.

        ``arguments`` are fields that replace those of the file, and those of ``HubOptions``: ``revision``,
        ``subfolder``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``. With
        ``return_unused_kwargs`` those that are neither are returned beside the configuration, in a tuple; else they are
        a ``ConfigError``. The name may be called ``pretrained_model_name_or_path``. Raises ``MissingFileError`` where
        nothing is found, with what was tried.
        """
        name = _named(cls, "from_pretrained", name_or_folder, "pretrained_model_name_or_path", arguments)
        options = HubOptions.taken_from(arguments)
        data, source = _read(cls, name, options)
        return cls._of_file(data, source)._changed(arguments, returns_others=return_unused_kwargs)

    @classmethod
    def get_config_dict(
        cls, name_or_folder: str | os.PathLike[str] | None = None, **arguments: Any
    ) -> tuple[dict[str, Any], Any]:
        """Return the mapping in the file that ``from_pretrained`` would read, and the arguments that it doesn't use."""
        name = _named(cls, "get_config_dict", name_or_folder, "pretrained_model_name_or_path", arguments)
        options = HubOptions.taken_from(arguments)
        return _read(cls, name, options)[0], arguments

    @classmethod
    def _part_of(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Return the part of a file that describes this configuration: all of it, unless it is another model's."""
        return data

    def _has_field(self, name: str) -> bool:
        name = NAMES.get(name, type(self).attribute_map.get(name, name))
        own = isinstance(getattr(type(self), name, None), property)
        return own or name in self.__struct_fields__ or name in RECORDS or name in ONLY

    def _with(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with attributes changed, checked together."""
        if not changes:
            return self
        copy = msgspec.structs.replace(self)
        copy.update(changes)
        return copy

    def _changed(self, changes: Mapping[str, Any], *, returns_others: bool) -> Any:
        """Return a copy with attributes changed, and beside it the changes that aren't fields, where they may be."""
        if not returns_others:
            return self._with(changes)
        used = {name: value for name, value in changes.items() if self._has_field(name)}
        return self._with(used), {name: value for name, value in changes.items() if name not in used}

    def save_pretrained(self, folder: str | os.PathLike[str] | None = None, **arguments: Any) -> None:
        """Write ``config.json`` in a folder; an old one is replaced once the new one is complete.

        The folder may be called ``save_directory``.
        ``push_to_hub=True`` uploads it, too; ``repo_id``, ``token``, ``private``, ``commit_message``, ``revision`` and
        ``create_pr`` say where and how. Raises ``FileAccessError``, and ``ConfigError`` for other arguments.
        """
        folder = _named(type(self), "save_pretrained", folder, "save_directory", arguments)
        push = take_push_options(arguments)
        for name in arguments:
            raise ConfigError(f"{type(self).__name__}.save_pretrained has no argument {name!r}.")
        self.check()
        path = Path(folder) / self.config_file
        with writing(path):
            write_json(path, self.to_dict())
        if push is not None:
            self.push_to_hub(push.pop("repo_id", None) or Path(folder).resolve().name, **push)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the configuration to a repository of the Hub, made where there is none; return the commit's address.

        ``options`` are ``token``, ``private``, ``commit_message``, ``commit_description``, ``revision`` and
        ``create_pr``.
        """
        return push_saved(self.save_pretrained, repo_id, options)


@cache
def _defaults(cls: type[PretrainedConfig]) -> dict[str, Any]:
    return cls().to_dict()


def _read(cls: type[PretrainedConfig], name: str | os.PathLike[str], options: HubOptions) -> tuple[dict[str, Any], str]:
    """Return the mapping that describes a configuration, and the file, given itself or by its folder, that has it."""
    path = Path(name) if isinstance(name, str | os.PathLike) and os.fspath(name) else None
    if path is None or not os.path.isfile(path):
        path = stored(find_folder(name, options, what="the configuration"), cls.config_file)
    return cls._part_of(read_json(path)), str(path)


def _named(
    cls: type[PretrainedConfig],
    method: str,
    given: str | os.PathLike[str] | None,
    theirs: str,
    arguments: dict[str, Any],
) -> str | os.PathLike[str]:
    """Return the first argument of a method, which may be given under the name that ``transformers`` has for it."""
    names: list[str | os.PathLike[str]] = [each for each in (given, arguments.pop(theirs, None)) if each is not None]
    if len(names) != 1:
        found = "both" if names else "neither"
        raise ConfigError(f"{cls.__name__}.{method} takes a name or a folder, or {theirs}; got {found}.")
    return names[0]


def _recorded(cls: type[PretrainedConfig], name: str, value: Any) -> dict[str, Any]:
    """Return the extras for an attribute that isn't a field. Raises ``ConfigError`` where it can't be kept."""
    if name in ONLY:
        only, instead = ONLY[name]
        if value is not None and value != only:
            raise ConfigError(f"{cls.__name__}.{name} can only be {only}; got {value!r}: {instead}.")
        return {}
    if name == "dtype":
        return dict.fromkeys(("dtype", "torch_dtype"), None if value is None else str(value).removeprefix("torch."))
    if name == "num_labels":
        labels = {number: f"LABEL_{number}" for number in range(value)}
        return {"id2label": labels, "label2id": {label: number for number, label in labels.items()}}
    if name in ("name_or_path", "_name_or_path"):
        return {"_name_or_path": os.fspath(value)}
    if name in RECORDS or name in cls.known_extras:
        return {name: value}
    raise ConfigError(_no_field(cls, name))


def _no_field(cls: type[PretrainedConfig], name: str) -> str:
    if name in INSTEAD:
        return f"{cls.__name__} has no attribute {name!r}: {INSTEAD[name]}."
    if name in OF_GENERATION:
        return f"{cls.__name__} has no field {name!r}, an option of generation: set it on model.generation_config."
    names = [*cls.__struct_fields__, *cls.attribute_map, *RECORDS, *ONLY]
    close = difflib.get_close_matches(name, [each for each in names if each != "extras"], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" To keep it in the file: config.extras[{name!r}] = ..."
    return f"{cls.__name__} has no field {name!r}.{hint}"
