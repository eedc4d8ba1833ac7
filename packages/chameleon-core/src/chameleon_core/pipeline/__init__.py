"""The pipeline: documents of text and pictures in, documents out, complete or as a stream of events."""

from .chameleon import Chameleon
from .documents import save_document
from .events import Event, Finished, ImageFinished, ImageProgress, ImageStarted, Reason, TextDelta
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
    "TextDelta",
    "save_document",
]
