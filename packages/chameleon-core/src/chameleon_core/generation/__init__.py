"""Generation of text, pictures and interleaved documents, as ids."""

from .decoder import Decoder, TextDecoder
from .decoding import Continuation, DecodingStrategy, Guesser, GuessView, Hypothesis, Searcher, SearchView
from .engine import Engine
from .options import GenerationChanges, GenerationOptions, Modality
from .processors import (
    FORBIDDEN,
    ExtraProcessors,
    LogitsProcessor,
    ProcessorChain,
    RowView,
    StatelessProcessor,
    make_processor,
    processor_chain,
)
from .requests import NewIds, Request, RequestHandle
from .row_chooser import RowChooser
from .row_machine import RowMachine, start_machine
from .rows import FinishReason, Row
from .shared_engine import SharedEngine
from .stream import Step, generate_ids

__all__ = [
    "FORBIDDEN",
    "Continuation",
    "Decoder",
    "DecodingStrategy",
    "Engine",
    "ExtraProcessors",
    "FinishReason",
    "GenerationChanges",
    "GenerationOptions",
    "GuessView",
    "Guesser",
    "Hypothesis",
    "LogitsProcessor",
    "Modality",
    "NewIds",
    "ProcessorChain",
    "Request",
    "RequestHandle",
    "Row",
    "RowChooser",
    "RowMachine",
    "RowView",
    "SearchView",
    "Searcher",
    "SharedEngine",
    "StatelessProcessor",
    "Step",
    "TextDecoder",
    "generate_ids",
    "make_processor",
    "processor_chain",
    "start_machine",
]
