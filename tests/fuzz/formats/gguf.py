"""What chameleon-core reads of GGUF: the header, the metadata, the tokenizer and the tensors of a file."""

from __future__ import annotations

import tempfile
import warnings
from functools import cache
from pathlib import Path
from random import Random

from chameleon_core import Chameleon, ChameleonCoreError
from chameleon_core.checkpoints import read_checkpoint
from chameleon_core.folder_parts import load_processor

from ..engine import Files, Format
from ..mutations import change_bytes
from . import seeds
from .core import read_model

MODEL = "model.gguf"
HEADER = 12_000
"""The bytes of the header that are mostly changed; the rest is weights."""


@cache
def _files() -> Files:
    """The pipeline, in one file of llama.cpp's."""

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for each, data in seeds.pipeline_files().items():
                (Path(name) / each).write_bytes(data)
            Chameleon.from_pretrained(name).save_pretrained(folder, checkpoint_format="gguf")

    return {MODEL: seeds.written(write)[MODEL]}


def _mutate(random: Random, files: Files) -> list[str]:
    """One change, mostly in the header; a change of a length moves what follows."""
    data = files[MODEL]
    size = HEADER if random.random() < 0.8 else len(data)
    head, note = change_bytes(random, data[:size])
    files[MODEL] = head + data[size:]
    return [note]


def _read(folder: Path) -> None:
    read_model(folder)
    if "tokenizer.json" in read_checkpoint(folder).processor_files:
        load_processor(folder)


FORMATS = (
    Format(
        "core-gguf",
        _files,
        _mutate,
        _read,
        error=ChameleonCoreError,
        what="*.gguf: ChameleonForConditionalGeneration.from_pretrained, load_processor",
        share=1,
        needs="gguf",
    ),
)
