"""What a configuration has that Meta's files have no place for, in a file that Meta's code doesn't look for.

``chameleon_config.json`` says how pictures are written, the vocabulary where there is no tokenizer, and what finetunes
added.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from .._commits import stored
from .._files import read_json, write_json
from ..config import ChameleonConfig
from ..errors import FileFormatError, InterchangeWarning, MissingFileError

REST_FILE = "chameleon_config.json"

_SAID = frozenset(
    {
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings"),
        *("qk_norm", "swin_norm", "model_parallel_size", "tie_word_embeddings", "attention_bias", "mlp_bias"),
        "hidden_act",
    }
)
"""The fields that Meta's files say, or that are refused where they can't."""
_OF_THE_FILE = frozenset({"dtype", "torch_dtype", "transformers_version", "model_type", "_name_or_path"})
"""Entries that are about the file that had them."""


def with_rest(config: ChameleonConfig, folder: Path) -> ChameleonConfig:
    """Return a configuration with the entries of the file of a folder, the same where there is none.

    Raises ``FileAccessError``, and ``FileFormatError`` for entries that ``params.json`` has.
    """
    path = stored(folder, REST_FILE)
    try:
        rest = read_json(path)
    except MissingFileError:
        return config
    wrong = sorted(rest.keys() & _SAID)
    if wrong:
        raise FileFormatError(f"{path} has {wrong[0]!r}, which params.json and the weights say. Change it there.")
    return ChameleonConfig.from_dict({**config.to_dict(), **rest})


def write_rest(folder: Path, config: ChameleonConfig, found: ChameleonConfig, *, has_image_tokenizer: bool) -> None:
    """Write what ``config`` has beside ``found``, which Meta's files say; no file where that is nothing."""
    left = _SAID | _OF_THE_FILE | ({"vq_config"} if has_image_tokenizer else set())
    there = found.to_dict()
    rest = {
        name: value
        for name, value in config.to_dict().items()
        if name not in left and value is not None and there.get(name) != value
    }
    if rest:
        write_json(folder / REST_FILE, rest)
    if config.picture_grammar != found.picture_grammar:
        warnings.warn(
            f"pictures are written by the grammar {config.picture_grammar!r:.80}, which {REST_FILE} says. Meta's code "
            "doesn't read that: use its files for text alone there.",
            InterchangeWarning,
            stacklevel=5,
        )
