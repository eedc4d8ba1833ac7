"""The base of vector quantizers' options: read from a configuration, with errors in the names that users wrote."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Meta

from .._config import Config, fields_of
from ..config import ChameleonVQVAEConfig
from ..errors import ConfigError

OptionsT = TypeVar("OptionsT", bound="QuantizerOptions")


class QuantizerOptions(Config, frozen=True, kw_only=True):
    """The options of one vector quantizer, from ``ChameleonVQVAEConfig.quantizer_options``.

    The ``msgspec.Meta`` of each field says what it expects: a ``description`` ("a number between 0 and 1") and, if that
    helps, ``examples``.
    """

    @classmethod
    def of(cls: type[OptionsT], config: ChameleonVQVAEConfig) -> OptionsT:
        """Return the options of a configuration. Raises ``ConfigError`` for the first one that is wrong."""
        quantizer, given = config.quantizer, config.quantizer_options
        fields = {field.name: field for field in fields_of(cls) if field.name != "extras"}
        for name in given:
            if name not in fields:
                raise ConfigError(_unknown(quantizer, name, list(fields)))
        for name, field in fields.items():
            if name not in given and field.required:
                raise ConfigError(f"{quantizer!r} needs the quantizer_option {name}, {_expected(field.type)}.")
        for name, value in given.items():
            try:
                msgspec.convert(value, fields[name].type)
            except msgspec.ValidationError as error:
                expected = _expected(fields[name].type)
                raise ConfigError(f"{quantizer!r} expects {name} to be {expected}; got {value!r}.") from error
        return cls(**given)

    @classmethod
    def problem(cls, config: ChameleonVQVAEConfig) -> str | None:
        """Return what is wrong with the options of a configuration, or None: what a spec's ``unsupported`` returns."""
        try:
            cls.of(config)
        except ConfigError as error:
            return str(error)
        return None


def _unknown(quantizer: str, name: str, known: list[str]) -> str:
    if not known:
        return f"{quantizer!r} has no quantizer_options; got {name!r}."
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{quantizer!r} has no quantizer_option {name!r}, only {', '.join(known)}.{hint}"


def _expected(annotation: Any) -> str:
    """Return what a field expects, in words: the description and the first example of its ``Meta``."""
    for meta in get_args(annotation)[1:]:
        if isinstance(meta, Meta) and meta.description:
            example = f", such as {meta.examples[0]!r}" if meta.examples else ""
            return f"{meta.description}{example}"
    raise TypeError(f"the type {annotation} of an option has no Meta with a description.")
