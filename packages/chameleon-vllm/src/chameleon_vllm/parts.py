"""The parts of a model's folder without its weights: what surrounds vLLM's engine, and what its workers need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ConfigError,
    GenerationOptions,
    MissingFileError,
    Request,
    TokenLayout,
    read_checkpoint,
)
from chameleon_core.checkpoints import resolve_folder
from chameleon_core.folder_parts import load_image_tokenizer, load_processor
from chameleon_core.generation import RowMachine, start_machine
from chameleon_core.pipeline.parts import weightless_model
from chameleon_core.protocols import ImageTokenizerLike, ProcessorLike

from .row_parts import check_options, check_signals
from .support import check_supported


@dataclass(frozen=True, slots=True)
class Words:
    """What a worker knows of a model's ids."""

    config: ChameleonConfig
    layout: TokenLayout
    processor: ProcessorLike


def find_folder(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a model that vLLM can read. Raises ``ConfigError`` for one in another layout."""
    folder = resolve_folder(name)
    if not os.path.isfile(folder / "config.json"):
        raise ConfigError(
            f"{folder} has no config.json, so vLLM can't read it. Convert it: chameleon convert {folder} FOLDER."
        )
    return folder


def model_of(folder: Path) -> ChameleonForConditionalGeneration:
    """Return the model of a folder on the meta device: its configuration and options, and no weights.

    Raises ``ConfigError`` where vLLM can't compute what it computes.
    """
    checkpoint = read_checkpoint(folder)
    check_supported(checkpoint.config, str(folder))
    options = GenerationOptions.from_file_dict(
        checkpoint.generation_config, checkpoint.config, source=f"{folder}/generation_config.json"
    )
    return weightless_model(checkpoint.config, folder, options)


def find_image_tokenizer(folder: Path, device: torch.device | str) -> ImageTokenizerLike | None:
    """Return the image tokenizer of a folder, None where it has none and the model reads and writes text alone."""
    try:
        return load_image_tokenizer(folder, device=device)
    except MissingFileError:
        return None


@dataclass(frozen=True, slots=True)
class Front:
    """What is in front of an engine: all of a pipeline but the weights."""

    model: ChameleonForConditionalGeneration
    processor: ProcessorLike
    image_tokenizer: ImageTokenizerLike | None

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        image_tokenizer: ImageTokenizerLike | None,
        image_device: torch.device | str,
    ) -> Front:
        """Load it from a model's folder, with another image tokenizer where one is given."""
        folder = find_folder(name)
        model = model_of(folder)
        if image_tokenizer is None:
            image_tokenizer = find_image_tokenizer(folder, image_device)
        sizes = model.layout.sized_pictures
        return cls(
            model, load_processor(folder, image_tokenizer=image_tokenizer, picture_format=sizes), image_tokenizer
        )


def rows_of(
    chameleon: Chameleon, rows: Sequence[Sequence[int]], options: GenerationOptions, written: Sequence[Sequence[int]]
) -> list[RowMachine]:
    """Return the machines of a pipeline's rows. Raises an error of the toolkit where vLLM can't run them."""
    check_options(options)
    if options.do_sample and options.seed is None:
        # One for all rows, from torch's own generator, so that torch.manual_seed makes a run repeatable.
        options = options.replace(seed=int(torch.randint(2**62, ())))
    machines = []
    for index, (prompt, ids) in enumerate(zip(rows, written, strict=True)):
        request = Request(prompt=tuple(prompt), options=options, index=index, written=tuple(ids))
        tokenizer = chameleon.processor.tokenizer
        machine = start_machine(request, chameleon.model.config, layout=chameleon.layout, tokenizer=tokenizer)
        check_signals(machine, chameleon.layout)
        machines.append(machine)
    return machines


def read_words(folder: Path) -> Words:
    """Return what a worker needs of a folder. The layout is that of the pipeline in front of it."""
    model = model_of(folder)
    processor = load_processor(folder, picture_format=model.layout.sized_pictures)
    model.attach_tokenizer(processor.tokenizer, getattr(processor, "segment_grammars", None))
    return Words(model.config, model.layout, processor)
