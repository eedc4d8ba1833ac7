"""The built-in plugins of this package, registered through its own hooks like third-party ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from chameleon_backends.plugins import PluginSpec

from ._commits import stored
from .config import CONFIG_FILE
from .hookspecs import HOOK_API_VERSION, CheckpointFormatSpec, LogitsProcessorSpec, hookimpl


@hookimpl
def chameleon_core_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:
    """Return the built-in checkpoint formats."""
    return [
        CheckpointFormatSpec(
            name="hf",
            factory="chameleon_core.formats.hf:HFFormat",
            api_version=HOOK_API_VERSION,
            summary="the layout of transformers: config.json and model*.safetensors",
            matches=_has_config,
            marks=CONFIG_FILE,
        ),
        CheckpointFormatSpec(
            name="meta",
            factory="chameleon_core.formats.meta:MetaFormat",
            api_version=HOOK_API_VERSION,
            summary="the layout of Meta's release: params.json and consolidated*.pth",
            matches=_has_params,
            marks="params.json, its own or that of a folder in models",
        ),
        CheckpointFormatSpec(
            name="gguf",
            factory="chameleon_core.formats.gguf:GGUFFormat",
            api_version=HOOK_API_VERSION,
            summary="llama.cpp's file of the transformer's text path: *.gguf",
            matches=_is_gguf,
            marks="a file *.gguf",
        ),
    ]


_PROCESSORS = "chameleon_core.generation.processors"


@hookimpl
def chameleon_core_logits_processors() -> Iterable[LogitsProcessorSpec]:
    """Return the built-in logits processors, which the fields of ``GenerationOptions`` use."""
    factories = {
        "repetition-penalty": ("repetition:RepetitionPenalty", "ids that a row has already are less likely"),
        "no-repeat-ngrams": ("repetition:NoRepeatNgrams", "no sequence of so many ids twice"),
        "forbidden-ids": ("forbidden:ForbiddenIds", "ids and sequences of ids that may not come"),
        "sequence-bias": (
            "biases:SequenceBias",
            "the last id of a sequence is likelier or less likely after the others",
        ),
        "likelier-end": ("biases:LikelierEnd", "the ids that end a row grow likelier after so many ids"),
        "forbidden-first": ("forced:ForbiddenFirst", "ids that a row may not begin with after its prompt"),
        "forced-ids": ("forced:ForcedIds", "what follows a prompt of one id, and what is last"),
        "min-new-tokens": ("forbidden:MinNewTokens", "a row doesn't end before it has so many ids"),
        "temperature": ("truncation:Temperature", "logits divided by a number"),
        "top-k": ("truncation:TopK", "the likeliest so many ids"),
        "top-p": ("truncation:TopP", "the likeliest ids that hold a probability"),
        "min-p": ("truncation:MinP", "ids with a share of the likeliest one's probability"),
        "typical": ("truncation:Typical", "the ids nearest to typical that hold a probability"),
        "epsilon": ("truncation:Epsilon", "ids of at least a probability"),
        "eta": ("truncation:Eta", "ids of at least a probability that falls with the entropy"),
        "top-h": ("truncation:TopH", "the likeliest ids that have a share of the entropy"),
    }
    return [
        LogitsProcessorSpec(
            name=name, factory=f"{_PROCESSORS}.{factory}", api_version=HOOK_API_VERSION, summary=summary
        )
        for name, (factory, summary) in factories.items()
    ]


@hookimpl
def chameleon_core_picture_grammars() -> Iterable[PluginSpec]:
    """Return the built-in picture grammars."""
    return [
        PluginSpec(
            name="chameleon",
            factory="chameleon_core.picture_grammars.rows_grammar:fixed_grid",
            api_version=HOOK_API_VERSION,
            summary="the codes of one grid, and nothing else",
        ),
        PluginSpec(
            name="lumina",
            factory="chameleon_core.picture_grammars.lumina:lumina",
            api_version=HOOK_API_VERSION,
            summary="the size, then the rows of codes with an end each, as Lumina-mGPT writes them",
            unsupported="chameleon_core.picture_grammars.lumina:unsupported",
        ),
    ]


@hookimpl
def chameleon_core_caches() -> Iterable[PluginSpec]:
    """Return the built-in caches of keys and values."""
    return [
        PluginSpec(
            name="dynamic",
            factory="chameleon_core.model.lane_cache:dynamic_cache",
            api_version=HOOK_API_VERSION,
            summary="keys and values as the model computes them, in room that grows with each row",
        ),
        PluginSpec(
            name="int8",
            factory="chameleon_core.model.int8_cache:int8_cache",
            api_version=HOOK_API_VERSION,
            summary="eight-bit keys and values with a scale for each position and head: half the memory of bfloat16",
        ),
        PluginSpec(
            name="static",
            factory="chameleon_core.model.static_cache:static_cache",
            api_version=HOOK_API_VERSION,
            summary="keys and values in room for the whole context: steps of one shape, for torch.compile",
        ),
    ]


_DECODING = "chameleon_core.generation.decoding"


@hookimpl
def chameleon_core_decoding() -> Iterable[PluginSpec]:
    """Return the built-in decoding strategies."""
    factories = {
        "plain": ("strategies:Plain", "a pass for each id"),
        "jacobi": ("jacobi:Jacobi", "guesses codes of pictures from the last pass and the row above"),
        "lookup": ("lookup:Lookup", "guesses text that repeats what the row has already"),
    }
    specs = [
        PluginSpec(name=name, factory=f"{_DECODING}.{factory}", api_version=HOOK_API_VERSION, summary=summary)
        for name, (factory, summary) in factories.items()
    ]
    return [
        *specs,
        PluginSpec(
            name="draft",
            factory="chameleon_core.draft_decoding:Draft",
            api_version=HOOK_API_VERSION,
            summary="guesses text with a smaller model of the same vocabulary",
        ),
        PluginSpec(
            name="beam",
            factory=f"{_DECODING}.beam:Beam",
            api_version=HOOK_API_VERSION,
            summary="writes the best of several texts that run beside each other",
            unsupported=f"{_DECODING}.beam:unsupported",
        ),
    ]


def _has_params(folder: Path) -> bool:
    from .formats.meta import is_meta

    return is_meta(folder)


def _is_gguf(place: Path) -> bool:
    from .formats.gguf import is_gguf

    return is_gguf(place)


def _has_config(folder: Path) -> bool:
    return os.path.isfile(stored(folder, CONFIG_FILE))
