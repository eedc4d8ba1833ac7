"""What is asked of both engines, and the settings of vLLM's that make it small."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from PIL import Image

from chameleon_core import Chameleon, Finished
from chameleon_vllm import VLLMChameleon

TESTS = Path(__file__).parents[2] / "packages" / "chameleon-vllm" / "tests"
Case = tuple[list[Any], dict[str, Any]]
"""Prompts, and options."""

SMALL: dict[str, Any] = {"enforce_eager": True, "max_num_seqs": 16, "kv_cache_memory_bytes": 2**28}
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLED: dict[str, Any] = {"do_sample": True, "seed": 3, "temperature": 0.9, "image_top_k": 50}
GUIDED: dict[str, Any] = {"guidance_text": 3.0, "guidance_image": 1.2}
PICTURE = Image.new("RGB", (64, 64), "red")
QUESTIONS: list[Any] = [[PICTURE, "what is this?"], ["a heart: ", PICTURE, " and"], "a heart"]
DRAWINGS: list[Any] = ["a red apple", "a blue heart", "a green leaf", *QUESTIONS[:2]]
CASES: dict[str, Case] = {
    "captions": (QUESTIONS, {"modality": "text", "max_new_tokens": 20, **GREEDY}),
    "sampled text": (QUESTIONS, {"modality": "text", "max_new_tokens": 20, **SAMPLED, "repetition_penalty": 1.2}),
    "guided text": (QUESTIONS, {"modality": "text", "max_new_tokens": 20, "guidance_scale": 1.5, **GREEDY}),
    "drawings": (DRAWINGS, {"modality": "image", "guidance_text": 1.0, **GREEDY}),
    "guided drawings": (DRAWINGS, {"modality": "image", **GREEDY, **GUIDED}),
    "sampled drawings": (DRAWINGS, {"modality": "image", **SAMPLED, **GUIDED}),
    "documents": (QUESTIONS, {"modality": "interleaved", "max_new_tokens": 100, "guidance_text": 1.0, **GREEDY}),
    "guided documents": (QUESTIONS, {"modality": "interleaved", "max_new_tokens": 100, **SAMPLED, **GUIDED}),
}
"""For models with the words and pictures of the embedded one."""
WIDE, TALL = Image.new("RGB", (90, 30), "red"), Image.new("RGB", (30, 90), "blue")
SIZED: dict[str, Case] = {
    "greedy": (["a house", ["a tree ", TALL]], {"modality": "image", **GREEDY}),
    "sizes of its own": (
        ["a house", ["a tree ", TALL], "a road"],
        {"modality": "image", **SAMPLED, "temperature": 5.0},
    ),
    "a size that is asked for": (["a house", "a tree"], {"modality": "image", "image_size": (16, 24), **SAMPLED}),
    "guided": (["a house", [WIDE, "a tree"]], {"modality": "image", **SAMPLED, **GUIDED, "temperature": 5.0}),
    "text": ([["A wall: ", WIDE, " and a tower: ", TALL]], {"modality": "text", "max_new_tokens": 20, **GREEDY}),
}
"""For models whose pictures have several sizes."""


def vllm_of(folder: str | Path, **arguments: Any) -> VLLMChameleon:
    """Return a model on vLLM, in float32, as chameleon-core runs it on a CPU."""
    return VLLMChameleon.from_pretrained(folder, dtype="float32", **{**SMALL, **arguments})


def written(chameleon: Chameleon, case: Case, *, template: str = "chat") -> list[tuple[tuple[int, ...], str]]:
    """Return what each prompt's row wrote, and why it ended."""
    prompts, options = case
    events = chameleon.stream_batch(prompts, template=template, **options)
    found = {event.row: (event.new_ids, event.reason) for event in events if isinstance(event, Finished)}
    return [found[row] for row in range(len(prompts))]


def malformed_of(chameleon: Chameleon) -> dict[str, tuple[Any, list[int] | None]]:
    """Return the malformed requests of the package's own tests, for a model: parameters, and the ids of prompts."""
    found: dict[str, tuple[Any, list[int] | None]] = runpy.run_path(str(TESTS / "malformed.py"))["malformed_requests"](
        chameleon.layout,
        context_length=chameleon.model.config.context_length,
        word=int(chameleon.layout.text_allowed_V.nonzero()[40]),
    )
    return found
