"""Logits processors: the contract, the built-in ones, and the chain of those that the options ask for."""

from .chain import ExtraProcessors, ProcessorChain, make_processor, processor_chain
from .contract import FORBIDDEN, Kind, LogitsProcessor, RowView, StatelessProcessor

__all__ = [
    "FORBIDDEN",
    "ExtraProcessors",
    "Kind",
    "LogitsProcessor",
    "ProcessorChain",
    "RowView",
    "StatelessProcessor",
    "make_processor",
    "processor_chain",
]
