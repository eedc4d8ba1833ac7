"""The image processor's settings as users of ``transformers`` read and write them, and settings that it has there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from .._files import read_json, write_json
from .._hub import locate
from ..errors import ConfigError, UnknownAttributeError
from ..file_access import writing
from ..settings_files import required_settings_of

_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "data_format": ((None, "channels_first"), "pass it to the call"),
    "default_to_square": ((None, False), 'give size={"height": ..., "width": ...}'),
    "device": ((None,), "pass it to the call"),
    "disable_grouping": ((None, True, False), "pass it to the call"),
    "do_pad": ((None, False, True), "pictures of one size, which the crop makes, need no padding"),
    "image_seq_length": ((None,), "it is the processor's"),
    "input_data_format": ((None,), "pass it to the call"),
    "pad_size": ((None,), "give crop_size"),
    "return_tensors": ((None,), "pass it to the call"),
}
"""Settings of ``transformers`` with the values that mean what happens anyway, and what to do instead of others."""
_READ: Mapping[str, Any] = dict.fromkeys(_ONLY) | {"data_format": "channels_first", "default_to_square": False}
"""What these settings are as attributes."""
_INSTEAD: Mapping[str, str] = {
    "convert_to_rgb": "preprocess(images, do_resize=False, do_center_crop=False, …) does it alone",
    "fetch_images": "preprocess opens files, data URLs and base64, and nothing is fetched from the network",
    "pad": "the crop makes pictures of one size, with black margins where needed; set crop_size",
    "process_image": "preprocess takes pictures of every form",
    "register_for_auto_class": "a folder names its class, and has no code that could be loaded",
    "valid_kwargs": "the fields are in __struct_fields__",
}
"""Names of ``transformers`` that image processors don't have here, and what to do instead."""


class ImageSettings:
    """The part of ``ChameleonImageProcessor`` that reads and writes settings under the names of ``transformers``."""

    __slots__ = ()

    if TYPE_CHECKING:

        def to_dict(self) -> dict[str, Any]:
            """Return the settings."""

        @classmethod
        def from_dict(cls, data: Mapping[str, Any], *, source: str = "") -> Self:
            """Return an image processor of settings."""

    def __getattr__(self, name: str) -> Any:
        # Called only for what is neither a field nor a method.
        if name in _READ:
            return _READ[name]
        if name in _INSTEAD:
            raise UnknownAttributeError(f"an image processor has no {name!r}: {_INSTEAD[name]}.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def backend(self) -> str:
        """What resizes pictures: Pillow, "pil"."""
        return "pil"

    @classmethod
    def get_image_processor_dict(
        cls, folder: str | os.PathLike[str], **arguments: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings in a folder's file, and the arguments that don't say where it is.

        Raises what ``from_pretrained`` does.
        """
        return required_settings_of(locate(folder, arguments, what="the image processor"))[0], arguments

    @property
    def image_processor_type(self) -> str:
        """What files call this kind of image processor."""
        return "ChameleonImageProcessor"

    def to_json_string(self) -> str:
        """Return the text of ``preprocessor_config.json``, sorted."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings to a file. Raises ``FileAccessError`` where it can't be written."""
        with writing(json_file_path):
            write_json(json_file_path, self.to_dict())

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Read settings from a file, whatever its name is. Raises ``MissingFileError``, ``FileFormatError``."""
        return cls.from_dict(read_json(json_file), source=os.fspath(json_file))

    @classmethod
    def _understood(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Leave out what means what happens anyway. Raises ``ConfigError`` for other values of it."""
        for name in fields.keys() & _ONLY.keys():
            allowed, instead = _ONLY[name]
            if not any(fields[name] is each or fields[name] == each for each in allowed):
                raise ConfigError(f"ChameleonImageProcessor can't have {name}={fields[name]!r:.80}: {instead}.")
        return {name: value for name, value in fields.items() if name not in _ONLY}
