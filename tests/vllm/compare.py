"""Run requests on vLLM and on chameleon-core, and print as JSON which wrote the same: ``compare.py FOLDER``.

A process of its own for each model, because vLLM's engine is made once in a process.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from PIL import Image

from chameleon_core import Chameleon, Finished
from chameleon_vllm import VLLMChameleon

PROMPTS = ("a red apple", "a blue heart", "a green leaf")
GUIDED = {"guidance_text": 3.0, "guidance_image": 1.2}
SAMPLED = {"do_sample": True, "seed": 3, "temperature": 0.9, "image_top_k": 50}


def cases(picture: Image.Image) -> dict[str, tuple[list[Any], dict[str, Any]]]:
    """Return prompts and options by the name of the case."""
    questions: list[Any] = [[picture, "what is this?"], ["a heart: ", picture, " and"], "a heart"]
    greedy = {"do_sample": False}
    return {
        "text": (questions, {"modality": "text", "max_new_tokens": 20, **greedy}),
        "sampled text": (questions, {"modality": "text", "max_new_tokens": 20, **SAMPLED, "repetition_penalty": 1.2}),
        "guided text": (questions, {"modality": "text", "max_new_tokens": 20, **greedy, "guidance_scale": 1.5}),
        "pictures": ([*PROMPTS, *questions[:2]], {"modality": "image", **greedy}),
        "guided pictures": ([*PROMPTS, *questions[:2]], {"modality": "image", **greedy, **GUIDED}),
        "sampled pictures": ([*PROMPTS, *questions[:2]], {"modality": "image", **SAMPLED, **GUIDED}),
        "documents": (questions, {"modality": "interleaved", "max_new_tokens": 100, **greedy}),
        "guided documents": (questions, {"modality": "interleaved", "max_new_tokens": 100, **SAMPLED, **GUIDED}),
    }


def written(chameleon: Chameleon, prompts: list[Any], options: dict[str, Any]) -> list[tuple[tuple[int, ...], str]]:
    """Return the new ids of each prompt and why it ended."""
    events = chameleon.stream_batch(prompts, template="chat", **options)
    found = {event.row: (event.new_ids, event.reason) for event in events if isinstance(event, Finished)}
    return [found[row] for row in range(len(prompts))]


def main() -> None:
    """Print a mapping of the case to whether the ids are the same."""
    folder = sys.argv[1]
    ours = Chameleon.from_pretrained(folder)
    theirs = VLLMChameleon.from_pretrained(
        folder, dtype="float32", enforce_eager=True, max_num_seqs=16, kv_cache_memory_bytes=2**28
    )
    found = {
        name: written(ours, prompts, options) == written(theirs, prompts, options)
        for name, (prompts, options) in cases(Image.new("RGB", (64, 64), "red")).items()
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
