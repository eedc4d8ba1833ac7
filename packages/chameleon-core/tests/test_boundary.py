"""What a sibling raises within an entry point is a ChameleonCoreError, too, and still what it was."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chameleon_backends
import chameleon_core
from chameleon_backends import ChameleonBackendsError, UnsupportedAttentionError
from chameleon_core import ChameleonCoreError, ChameleonForConditionalGeneration
from chameleon_core._boundary import translates_errors
from chameleon_core.testing import make_config, make_model


class BaseError(Exception):
    """Stands for the base of a sibling that isn't installed here."""


BaseError.__name__, BaseError.__module__ = "ChameleonVQError", "chameleon_vq.errors"


class MissingFileError(BaseError, FileNotFoundError):
    pass


class WeightsError(BaseError, ValueError):
    def __init__(self, source: str, *, missing: tuple[str, ...]) -> None:
        self.missing = missing
        super().__init__(f"{source} lacks {', '.join(missing)}")


class OptionalError(BaseError, ImportError):
    pass


class PluginsOwnError(UnsupportedAttentionError):
    pass


# As if a sibling's module defined it; where it is really found is what pickle looks at.
WeightsError.__module__ = "chameleon_vq.errors"
SIBLINGS = [
    MissingFileError("no file"),
    MissingFileError(2, "no such file", "model.safetensors"),
    OptionalError("no module", name="acme", path="acme.py"),
    PluginsOwnError("not on this machine"),
    UnsupportedAttentionError("float64"),
    chameleon_backends.ConfigError("head_dim"),
]


def raised(error: BaseException) -> Any:
    """What leaves an entry point in which ``error`` is raised."""

    @translates_errors
    def entry() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        entry()
    return caught.value


@pytest.mark.parametrize("error", [*SIBLINGS, WeightsError("folder", missing=("a", "b"))], ids=repr)
def test_a_sibling_s_error_is_one_of_core_s_and_still_what_it_was(error: Exception) -> None:
    found = raised(error)
    assert isinstance(found, ChameleonCoreError)
    assert isinstance(found, type(error))
    assert found.__cause__ is error
    assert (str(found), found.args, found.__dict__) == (str(error), error.args, error.__dict__)
    assert [getattr(found, name, None) for name in ("name", "path", "filename")] == [
        getattr(error, name, None) for name in ("name", "path", "filename")
    ]
    assert type(found).__name__ == type(error).__name__
    assert type(raised(error)) is type(found)


@pytest.mark.parametrize("error", SIBLINGS, ids=repr)
def test_a_translated_error_is_pickled_as_any(error: Exception) -> None:
    found = raised(error)
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is type(found)
    assert (str(again), again.args, again.__dict__) == (str(found), found.args, found.__dict__)
    assert getattr(again, "name", None) == getattr(error, "name", None)


def test_the_class_of_the_same_name_catches_it() -> None:
    assert isinstance(raised(WeightsError("folder", missing=("a",))), chameleon_core.WeightsError)
    assert isinstance(raised(chameleon_backends.ConfigError("head_dim")), chameleon_core.ConfigError)
    unknown = raised(chameleon_backends.UnknownPluginError("no backend"))
    assert type(unknown) is chameleon_core.UnknownPluginError


@pytest.mark.parametrize("error", [ValueError("theirs"), KeyboardInterrupt(), chameleon_core.GenerationError("ours")])
def test_other_errors_pass_as_they_are(error: BaseException) -> None:
    assert raised(error) is error


def test_an_error_is_translated_once() -> None:
    error = UnsupportedAttentionError("float64")
    found = raised(raised(error))
    assert found.__cause__ is error


def test_generators_translate_what_is_raised_between_their_items_and_can_be_closed() -> None:
    closed: list[bool] = []

    @translates_errors
    def stream(error: Exception | None) -> Iterator[int]:
        try:
            yield 1
            if error is not None:
                raise error
            yield 2
        finally:
            closed.append(True)

    failing = stream(UnsupportedAttentionError("float64"))
    assert next(failing) == 1
    with pytest.raises(ChameleonCoreError):
        next(failing)
    open_ended = stream(None)
    next(open_ended)
    open_ended.close()  # type: ignore[attr-defined]
    assert closed == [True, True]
    assert list(stream(None)) == [1, 2]


def test_a_function_keeps_its_name_and_signature() -> None:
    function = ChameleonForConditionalGeneration.generate
    assert function.__name__ == "generate"
    assert "max_new_tokens" in (function.__doc__ or "")


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"attn_implementation": "flsh"}, chameleon_core.UnknownPluginError),
        ({"quantization": "int9"}, chameleon_core.UnknownPluginError),
    ],
)
def test_loading_a_model_with_an_unknown_plugin(
    arguments: dict[str, Any], kind: type[Exception], tmp_path: Path
) -> None:
    make_model(make_config()).save_pretrained(tmp_path)
    with pytest.raises(ChameleonCoreError) as caught:
        ChameleonForConditionalGeneration.from_pretrained(tmp_path, **arguments)
    assert isinstance(caught.value, kind)
    assert isinstance(caught.value, ChameleonBackendsError)
    assert "Did you mean" in str(caught.value) or "Installed" in str(caught.value)
    assert "direct cause" in "".join(traceback.format_exception(caught.value))


def test_building_a_model_with_an_unknown_backend() -> None:
    with pytest.raises(chameleon_core.UnknownPluginError, match="flsh"):
        ChameleonForConditionalGeneration(make_config(), attn_implementation="flsh")
