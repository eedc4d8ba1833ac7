"""The arguments that ``from_pretrained`` and ``save_pretrained`` have in ``transformers``: names, the Hub, uploads."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .._hub import HubOptions, find_folder, push_saved, take_push_options
from ..errors import ConfigError
from .image_arguments import IMAGE_ARGUMENTS
from .special_tokens import NAMED, TokenizerSettings

T = TypeVar("T")

_OF_IMAGES = IMAGE_ARGUMENTS | {"use_fast"}
SETTINGS = _OF_IMAGES | NAMED.keys() | set(TokenizerSettings.__struct_fields__) - {"padding_side", "chat_template"}
"""Settings of the parts of a processor, which its loading takes, beside its own arguments."""
_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "legacy_format": ((None, False), "the tokenizer is written as tokenizer.json alone"),
    "filename_prefix": ((None,), "files have the names that they are found by"),
    "save_jinja_files": ((True, None), "a chat template is written as chat_template.jinja"),
}
"""Arguments of ``save_pretrained`` with only these values, and why others are refused."""
_PUSH = (
    "push_to_hub",
    "repo_id",
    "token",
    "private",
    "revision",
    "commit_message",
    "commit_description",
    "create_pr",
    "tags",
)


def requested_folder(
    name: Any,
    arguments: dict[str, Any],
    *,
    what: str,
    known: Iterable[str],
    weights: str | None = None,
) -> Path:
    """Return the folder that a ``from_pretrained`` was asked for, and take what says where it is from its arguments.

    Raises ``ConfigError``, with the closest name, for arguments that are left and aren't ``known``, and what
    ``find_folder`` does.
    """
    if name is None:
        name = arguments.pop("pretrained_model_name_or_path", None)
    hub = HubOptions.taken_from(arguments)
    check_known(arguments, (*known, *HubOptions.__dataclass_fields__), caller="from_pretrained")
    return find_folder(name, hub, what=what, weights=weights)


def settings_of_parts(arguments: dict[str, Any], reader: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the settings of a tokenizer, and of an image processor, from the arguments of a processor's loading.

    Raises ``ConfigError`` for those of an image processor where another ``reader`` of pictures is given.
    """
    taken = {name: arguments.pop(name) for name in [*arguments] if name in SETTINGS}
    about_images = {name: taken.pop(name) for name in [*taken] if name in _OF_IMAGES}
    if not about_images.get("use_fast", True):
        del about_images["use_fast"]  # there is one image processor, which computes as the slow one
    if about_images and reader not in (None, False):
        given = "image_tokenizer=True" if reader is True else f"a {type(reader).__name__}"
        raise ConfigError(
            f"{next(iter(about_images))} has no effect beside {given}, which reads pictures as it was made to. "
            "Leave it out."
        )
    return taken, about_images


def save(write: Callable[[str | os.PathLike[str]], T], folder: Any, arguments: Mapping[str, Any]) -> T:
    """Return ``write(folder)``, and upload the same where the arguments of a ``save_pretrained`` ask for that.

    Raises ``ConfigError`` for what isn't available.
    """
    left = dict(arguments)
    folder = left.pop("save_directory", None) if folder is None else folder
    if folder is None:
        raise ConfigError("save_pretrained needs the folder to write to.")
    for name in [name for name in left if name in _ONLY]:
        value = left.pop(name)
        allowed, reason = _ONLY[name]
        if not any(value is each for each in allowed):
            raise ConfigError(f"save_pretrained can't have {name}={value!r:.80}: {reason}.")
    check_known(left, (*_PUSH, *_ONLY), caller="save_pretrained")
    push = take_push_options(left)
    written = write(folder)
    if push is not None:
        push_saved(write, push.pop("repo_id", None) or Path(folder).resolve().name, push)
    return written


def check_known(names: Iterable[str], known: Iterable[str], *, caller: str) -> None:
    """Raise ``ConfigError``, with the closest name, for a name that isn't known."""
    known = sorted(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The arguments are {', '.join(known)}."
            raise ConfigError(f"{caller} has no argument {name!r}. {hint}")
