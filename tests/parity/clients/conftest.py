"""One folder that transformers saved, loaded on both sides, for the programs that work on models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import transformers
from tests.parity.probes.checkpoint import save_checkpoint
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from chameleon_core import ChameleonForConditionalGeneration
from chameleon_text import ChameleonProcessor

SIDES = ("theirs", "ours")


class Side(NamedTuple):
    """A model, which a test may change, and its processor."""

    model: Any
    processor: Any


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> dict[str, Side]:
    """The folder as each side loads it; not to be changed."""
    theirs = transformers.ChameleonForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager")
    processor = transformers.ChameleonProcessor(
        ChameleonImageProcessorPil.from_pretrained(checkpoint),
        transformers.AutoTokenizer.from_pretrained(checkpoint),
        image_seq_length=4,
    )
    ours = ChameleonForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager")
    ours.masks_picture_codes = True
    return {"theirs": Side(theirs, processor), "ours": Side(ours, ChameleonProcessor.from_pretrained(checkpoint))}


@pytest.fixture
def sides(loaded: dict[str, Side]) -> dict[str, Side]:
    """Both sides, to be changed."""
    return copy.deepcopy(loaded)
