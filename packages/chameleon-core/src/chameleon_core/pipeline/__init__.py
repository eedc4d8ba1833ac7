"""The pipeline: documents of text and pictures in, documents out, complete or as a stream of events."""

from typing import TYPE_CHECKING

from .._moved import moved_names
from .chameleon import Chameleon
from .documents import load_document, save_document
from .events import (
    Event,
    Finished,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    Reason,
    SegmentFinished,
    SegmentProgress,
    SegmentStarted,
    TextDelta,
)
from .prompts import Picture, Prompt, PromptPart

__all__ = [
    "Chameleon",
    "Event",
    "Finished",
    "ImageFinished",
    "ImageProgress",
    "ImageStarted",
    "Picture",
    "Prompt",
    "PromptPart",
    "Reason",
    "SegmentFinished",
    "SegmentProgress",
    "SegmentStarted",
    "TextDelta",
    "load_document",
    "save_document",
]

if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "CAPTION_QUESTION": "chameleon_core.pipeline.short_forms:CAPTION_QUESTION",
            "PREPROCESSOR_FILE": "chameleon_core.pipeline.chameleon:PREPROCESSOR_FILE",
        },
    )
