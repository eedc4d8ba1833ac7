# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""The base of a model's configurations: fields that can be assigned, and the methods that ``transformers`` has.

What ``transformers`` gives every configuration is understood: what describes the model or is only a record is kept, and
what would change the computation there, and doesn't here, is refused.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

import msgspec

from ._commits import stored
from ._config import Config
from ._files import read_json, write_json, writing
from ._hub import HubOptions, find_folder, push_saved, take_push_options
from .errors import ConfigError

_RECORDS: Mapping[str, Any] = {
    "_name_or_path": "",
    "architectures": None,
    "dtype": None,
    "id2label": None,
    "label2id": None,
    "name_or_path": "",
    "num_labels": 2,
    "problem_type": None,
    "task_specific_params": None,
    "tokenizer_class": None,
    "transformers_version": None,
}
"""What every configuration of ``transformers`` has and that is kept without changing anything, with its default."""
_ONLY: Mapping[str, tuple[Any, str]] = {
    "_attn_implementation": (None, "pass attn_implementation to the model or to its from_pretrained"),
    "add_cross_attention": (False, "the model has no encoder to attend to"),
    "chunk_size_feed_forward": (0, "the feed-forward layer isn't cut"),
    "is_decoder": (False, "the model is a decoder in any case"),
    "is_encoder_decoder": (False, "the model has no encoder"),
    "output_attentions": (False, "pass output_attentions=True to the model's call"),
    "output_hidden_states": (False, "pass output_hidden_states=True to the model's call"),
    "return_dict": (True, "pass return_dict=False to the model's call"),
    "tie_encoder_decoder": (False, "the model has no encoder"),
    "torchscript": (False, "use torch.export or torch.compile"),
    "use_bfloat16": (False, "use dtype='bfloat16'"),
}
"""What has one possible value here, and what to do instead of another."""
_NAMES = {
    "attn_implementation": "_attn_implementation",
    "torch_dtype": "dtype",
    "use_return_dict": "return_dict",
    "_output_attentions": "output_attentions",
}
"""Second names of these."""
_OF_GENERATION: Mapping[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "diversity_penalty": 0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "length_penalty": 1,
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_scores": False,
    "remove_invalid_values": False,
    "repetition_penalty": 1,
    "return_dict_in_generate": False,
    "suppress_tokens": None,
    "temperature": 1,
    "top_k": 50,
    "top_p": 1,
    "typical_p": 1,
}
"""Options of generation, which old releases of ``transformers`` wrote into every configuration, with their defaults."""
# fmt: off
_WRITTEN = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_experts_implementation", "attn_implementation", "auto_map", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "finetuning_task", "model_type", "prefix", "pruned_heads",
    "return_dict", "sep_token_id", "tf_legacy_loss", "torch_dtype",
})
# fmt: on
"""What releases of ``transformers`` write beside ``_RECORDS`` and ``_ONLY``, and what changes nothing here."""


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
        name = _NAMES.get(name, type(self).attribute_map.get(name, name))
        if name in self.__struct_fields__:
            return getattr(self, name)
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("name_or_path", "_name_or_path"):
            return self.extras.get("_name_or_path", "")
        if name == "dtype":
            return _as_dtype(self.extras.get("dtype") or self.extras.get("torch_dtype"))
        if name == "num_labels":
            return len(self.extras.get("id2label") or ()) or _RECORDS[name]
        if name in self.extras:
            return self.extras[name]
        if name in _RECORDS:
            return _RECORDS[name]
        if name in _ONLY:
            return _ONLY[name][0]
        raise AttributeError(_no_field(type(self), name))

    def __setattr__(self, name: str, value: Any) -> None:
        name = _NAMES.get(name, type(self).attribute_map.get(name, name))
        fields = {field.name: field for field in msgspec.structs.fields(self)}
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
            name = _NAMES.get(given, cls.attribute_map.get(given, cls.aliases.get(given, given)))
            if name not in cls.__struct_fields__ and (name in _RECORDS or name in _ONLY or name in cls.known_extras):
                records |= _recorded(cls, name, value)
            else:
                known[name] = value
        return {**known, "extras": {**known.get("extras", {}), **records}} if records else known

    @classmethod
    def _is_known(cls, name: str, value: Any) -> bool:
        if name in _OF_GENERATION:
            return value is None or value == _OF_GENERATION[name]
        return super()._is_known(name, value) or name in _WRITTEN or name in _RECORDS or name in _ONLY

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

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """Return the configuration of the text model, which is this one, whatever is asked for."""
        return self

    @overload
    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, return_unused_kwargs: Literal[False] = False, **arguments: Any
    ) -> Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, return_unused_kwargs: Literal[True], **arguments: Any
    ) -> tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, return_unused_kwargs: bool = False, **arguments: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Read the configuration of a folder, a registered name, a Hub id, or a file.

        ``arguments`` are fields that replace those of the file, and those of ``HubOptions``: ``revision``,
        ``subfolder``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``. With
        ``return_unused_kwargs`` those that are neither are returned beside the configuration, in a tuple; else they are
        a ``ConfigError``. Raises ``MissingFileError`` where nothing is found, with what was tried.
        """
        options = HubOptions.taken_from(arguments)
        data, source = _read(cls, name_or_folder, options)
        config = cls.from_dict(data, source=source)
        if not return_unused_kwargs:
            return config._with(arguments)
        used = {name: value for name, value in arguments.items() if config._has_field(name)}
        return config._with(used), {name: value for name, value in arguments.items() if name not in used}

    @classmethod
    def get_config_dict(cls, name_or_folder: str | os.PathLike[str], **arguments: Any) -> tuple[dict[str, Any], Any]:
        """Return the mapping in the file that ``from_pretrained`` would read, and the arguments that it doesn't use."""
        options = HubOptions.taken_from(arguments)
        return _read(cls, name_or_folder, options)[0], arguments

    @classmethod
    def _part_of(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Return the part of a file that describes this configuration: all of it, unless it is another model's."""
        return data

    def _has_field(self, name: str) -> bool:
        name = _NAMES.get(name, type(self).attribute_map.get(name, name))
        own = isinstance(getattr(type(self), name, None), property)
        return own or name in self.__struct_fields__ or name in _RECORDS or name in _ONLY

    def _with(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with attributes changed, checked together."""
        if not changes:
            return self
        copy = msgspec.structs.replace(self)
        copy.update(changes)
        return copy

    def save_pretrained(self, folder: str | os.PathLike[str], **arguments: Any) -> None:
        """Write ``config.json`` in a folder; an old one is replaced once the new one is complete.

        ``push_to_hub=True`` uploads it, too; ``repo_id``, ``token``, ``private``, ``commit_message``, ``revision`` and
        ``create_pr`` say where and how. Raises ``FileAccessError``, and ``ConfigError`` for other arguments.
        """
        push = take_push_options(arguments)
        for name in arguments:
            raise ConfigError(f"{type(self).__name__}.save_pretrained has no argument {name!r}.")
        self.check()
        path = Path(folder) / self.config_file
        with writing(path):
            write_json(path, {"model_type": self.model_type, **self.to_dict()})
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


def _recorded(cls: type[PretrainedConfig], name: str, value: Any) -> dict[str, Any]:
    """Return the extras for an attribute that isn't a field. Raises ``ConfigError`` where it can't be kept."""
    if name in _ONLY:
        only, instead = _ONLY[name]
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
    if name in _RECORDS or name in cls.known_extras:
        return {name: value}
    raise ConfigError(_no_field(cls, name))


def _no_field(cls: type[PretrainedConfig], name: str) -> str:
    if name in _OF_GENERATION:
        return f"{cls.__name__} has no field {name!r}, an option of generation: set it on model.generation_config."
    names = [*cls.__struct_fields__, *cls.attribute_map, *_RECORDS, *_ONLY]
    close = difflib.get_close_matches(name, [each for each in names if each != "extras"], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" To keep it in the file: config.extras[{name!r}] = ..."
    return f"{cls.__name__} has no field {name!r}.{hint}"


def _as_dtype(name: Any) -> Any:
    """Return the dtype of torch that a file names; a dtype and None are themselves."""
    if not isinstance(name, str):
        return name
    import torch

    return getattr(torch, name.removeprefix("torch."), name)
