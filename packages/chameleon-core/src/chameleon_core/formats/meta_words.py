"""Meta's ``text_tokenizer.json``, and the processor's files that other layouts have in its place.

Both are the same tokenizer; the placeholder of pictures is ``<reserved08707>`` in Meta's file and ``<image>`` in those
of ``transformers``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._commits import stored
from .._files import parse_json, read_json
from ..config import PLACEHOLDERS, ChameleonConfig
from ..errors import FileFormatError

TEXT_FILE = "text_tokenizer.json"
TOKENIZER_FILE = "tokenizer.json"

_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "<reserved08706>"}
_PICTURE = {"image_token": PLACEHOLDERS[0], "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
"""The names that ``transformers`` has for special tokens, and the published tokens (``chameleon_core.layout``)."""
_IDS = ("bos", "eos", "pad")

Files = dict[str, Callable[[], bytes]]
"""The content of files by their names, read when it is needed."""


def find_words(folders: list[Path]) -> Path | None:
    """Return the path of the tokenizer in the first of several folders that has one, None where none has."""
    paths = (stored(folder, TEXT_FILE) for folder in folders)
    return next((path for path in paths if os.path.isfile(path)), None)


def words_of(path: Path) -> dict[str, Any]:
    """Return the parts of a configuration that a tokenizer's file says: the vocabulary, and ids of special tokens.

    Raises ``MissingFileError``, ``FileAccessError`` and ``FileFormatError``.
    """
    data = _renamed(read_json(path), PLACEHOLDERS[1], PLACEHOLDERS[0])
    model, added = data.get("model"), data.get("added_tokens") or []
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not isinstance(added, list):
        raise FileFormatError(f"{path} has no model.vocab; expected the file of a tokenizer.")
    ids = dict(vocab)
    ids |= {each["content"]: each.get("id") for each in added if isinstance(each, dict) and "content" in each}
    wrong = next((name for name, id_ in ids.items() if type(id_) is not int or not isinstance(name, str)), None)
    if wrong is not None:
        raise FileFormatError(f"{path}: the id of {wrong!r:.80} is {ids[wrong]!r:.80}, expected an integer.")
    return {"vocabulary_map": ids, **{f"{each}_token_id": ids.get(_SPECIAL[f"{each}_token"]) for each in _IDS}}


def processor_files(path: Path, *, image_seq_length: int, resolution: int) -> Files:
    """Return the processor's files for a tokenizer of Meta's: pictures are prepared as Meta's code does."""
    pictures = {
        "image_processor_type": "ChameleonImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": resolution},
        "resample": 1,
        "do_center_crop": True,
        "crop_size": {"height": resolution, "width": resolution},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
        "rounding": "meta",
    }
    return {
        TOKENIZER_FILE: lambda: _json(_renamed(read_json(path), PLACEHOLDERS[1], PLACEHOLDERS[0])),
        **settings_files(image_seq_length=image_seq_length),
        "preprocessor_config.json": partial(_json, pictures),
    }


def settings_files(*, image_seq_length: int) -> Files:
    """Return the processor's files beside the tokenizer, those of pictures left out."""
    own = {"processor_class": "ChameleonProcessor", "image_token": PLACEHOLDERS[0]}
    data: dict[str, dict[str, Any]] = {
        "tokenizer_config.json": {
            **own,
            **_SPECIAL,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
            "extra_special_tokens": _PICTURE,
        },
        "processor_config.json": {**own, "image_seq_length": image_seq_length},
    }
    return {name: partial(_json, each) for name, each in data.items()}


def picture_sizes(config: ChameleonConfig, source: object) -> dict[str, int]:
    """Return the side of a picture, and how many codes it has. Raises ``FileFormatError``, which names ``source``."""
    sizes: Any = config.vq_config
    resolution, levels = sizes.resolution, sizes.channel_multiplier
    if type(resolution) is not int or not isinstance(levels, (list, tuple)) or len(levels) > 30 or resolution < 1:
        raise FileFormatError(
            f"{source} has the resolution {resolution!r:.80} and ch_mult {levels!r:.80}, expected an integer and a "
            "list of them."
        )
    return {"resolution": resolution, "image_seq_length": (resolution >> max(0, len(levels) - 1)) ** 2}


def write_words(folder: Path, files: Mapping[str, Callable[[], bytes]]) -> None:
    """Write a processor's files, and its tokenizer as Meta's, too, where there is one."""
    for name, content in files.items():
        (folder / name).write_bytes(content())
    if TOKENIZER_FILE in files:
        data = parse_json(files[TOKENIZER_FILE](), TOKENIZER_FILE)
        (folder / TEXT_FILE).write_bytes(_json(_renamed(data, PLACEHOLDERS[0], PLACEHOLDERS[1])))


def _renamed(data: Any, old: str, new: str) -> dict[str, Any]:
    """Return a tokenizer whose placeholder has another name, the same where it hasn't the old one."""
    model, added = data.get("model"), data.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict) and old in vocab and new not in vocab:
        renamed = {new if name == old else name: id_ for name, id_ in vocab.items()}
        data = {**data, "model": {**model, "vocab": renamed}}
    if isinstance(added, list):
        tokens = [
            {**each, "content": new} if isinstance(each, dict) and each.get("content") == old else each
            for each in added
        ]
        data = {**data, "added_tokens": tokens}
    return dict(data)


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
