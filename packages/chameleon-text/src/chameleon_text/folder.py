"""The files of a processor in a model's folder, as ``transformers`` names and fills them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._files import read_json, write_json
from .errors import FileFormatError
from .tokenizer import TextTokenizer
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


class ProcessorFolder:
    """What a folder says of a processor. ``configs`` has the two configs as they are, empty where there is none."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raise ``FileNotFoundError`` without a ``tokenizer.json``, ``FileFormatError`` for a broken file."""
        self._path = Path(folder)
        if not (self._path / TOKENIZER).is_file():
            raise FileNotFoundError(
                f"{self._path / TOKENIZER} doesn't exist, the file that a model's folder has its tokenizer in. "
                "Pass a folder; names of models are looked up by chameleon-core."
            )
        self.tokenizer = TextTokenizer.from_file(self._path / TOKENIZER)
        self.configs = {
            name: read_json(self._path / name) if (self._path / name).is_file() else {}
            for name in (TOKENIZER_CONFIG, PROCESSOR_CONFIG)
        }

    @property
    def image_token(self) -> str:
        """The placeholder's name. The tokenizer's config wins over the processor's, as in ``transformers``."""
        for name in (TOKENIZER_CONFIG, PROCESSOR_CONFIG):
            token = self.configs[name].get("image_token")
            if token is not None:
                token = token.get("content") if isinstance(token, dict) else token
                token = str(self._typed(name, "image_token", token, str))
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
        return self.configs[TOKENIZER_CONFIG].get("padding_side")

    def _typed(self, file: str, field: str, value: Any, kind: type) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FileFormatError(f"{self._path / file}: {field} is {value!r}, expected {kind.__name__}.")
        return value


def write_folder(
    folder: str | os.PathLike[str],
    *,
    tokenizer: TextTokenizer,
    image_token: str,
    image_seq_length: int,
    padding_side: str,
    image_processor: object,
    configs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a processor's files; the configs keep what ``configs`` has beyond the entries written here.

    Each file is complete before it replaces its predecessor.
    """
    path = Path(folder)
    tokenizer.save(path / TOKENIZER)
    pictures = {"image_token": image_token, "boi_token": BEGIN_IMAGE, "eoi_token": END_IMAGE}
    defaults = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    own = {
        "processor_class": "ChameleonProcessor",
        "bos_token": BEGIN_OF_STREAM,
        "eos_token": END_OF_STREAM,
        "pad_token": PAD,
        "sep_token": SEPARATOR,
        "padding_side": padding_side,
        # transformers reads these names from the mapping in newer versions, from the top in older ones.
        "extra_special_tokens": pictures,
        **pictures,
    }
    write_json(path / TOKENIZER_CONFIG, defaults | dict(configs.get(TOKENIZER_CONFIG, {})) | own)
    processor_config = {
        **configs.get(PROCESSOR_CONFIG, {}),
        "processor_class": "ChameleonProcessor",
        "image_seq_length": image_seq_length,
        "image_token": image_token,
    }
    to_dict = getattr(image_processor, "to_dict", None)
    if to_dict is not None:
        # Older folders have these constants in a file of their own, newer ones in the processor's config.
        constants = to_dict()
        write_json(path / PREPROCESSOR_CONFIG, constants)
        processor_config["image_processor"] = constants
    write_json(path / PROCESSOR_CONFIG, processor_config)
