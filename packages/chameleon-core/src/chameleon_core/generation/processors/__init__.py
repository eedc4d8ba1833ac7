"""Logits processors: the contract, the built-in ones, and the chain of those that the options ask for."""

from ..segment_kinds import Kind
from .chain import ExtraProcessors, ProcessorChain, make_processor, processor_chain
from .contract import FORBIDDEN, LogitsProcessor, RowView, StatelessProcessor

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
