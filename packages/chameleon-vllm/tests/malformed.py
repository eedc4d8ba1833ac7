"""Requests that are no parts of rows, or of rows that can't be: what anybody may send to a server."""

from __future__ import annotations

import json

from chameleon_core import TokenLayout

Malformed = tuple[object, list[int] | None]
"""The parameter, and the ids of the prompt."""


def malformed_requests(layout: TokenLayout, *, context_length: int, word: int) -> dict[str, Malformed]:
    """Return them by what is wrong, for a model with one size of pictures; ``word`` is an id of text."""
    codes = layout.code_to_id_Z.tolist()
    (grid,) = layout.pictures.grids
    codes_of_a_picture = grid.height * grid.width
    prompt = [0, word, word + 1]
    good = {"options": {"max_new_tokens": 5}, "prompt_length": 3}
    picture = {"options": {"modality": "image"}, "prompt_length": 3}
    return {
        "a number": (5, prompt),
        "no JSON": ("{", prompt),
        "a list": ("[]", prompt),
        "an unknown field": (json.dumps({**good, "seed": 1}), prompt),
        "options of another type": (json.dumps({**good, "options": [1]}), prompt),
        "an unknown option": (json.dumps({**good, "options": {"tempo": 1}}), prompt),
        "an impossible option": (json.dumps({**good, "options": {"top_p": 7}}), prompt),
        "an option of another type": (json.dumps({**good, "options": {"max_new_tokens": "5"}}), prompt),
        "a search": (json.dumps({**good, "options": {"decoding": "beam"}}), prompt),
        "another cache": (json.dumps({**good, "options": {"cache_implementation": "int8"}}), prompt),
        "a processor that isn't installed": (json.dumps({**good, "options": {"logits_processors": ["nil"]}}), prompt),
        "another modality": (json.dumps({**good, "options": {"modality": "audio"}}), prompt),
        "a signal among the stop ids": (json.dumps({**good, "options": {"stop_ids": [layout.pad_id]}}), prompt),
        "a signal as the end": (json.dumps({**good, "options": {"eos_token_ids": [layout.bos_id]}}), prompt),
        "forbidden ids beyond the vocabulary": (
            json.dumps({**good, "options": {"forbidden_ids": [len(layout.text_allowed_V) + 35]}}),
            prompt,
        ),
        "all ids forbidden": (
            json.dumps({**good, "options": {"forbidden_ids": list(range(len(layout.text_allowed_V)))}}),
            prompt,
        ),
        "no prompt": (json.dumps(good), None),
        "an empty prompt": (json.dumps(good), []),
        "no length": (json.dumps({"options": {}}), prompt),
        "a length of 0": (json.dumps({**good, "prompt_length": 0}), prompt),
        "a negative length": (json.dumps({**good, "prompt_length": -1}), prompt),
        "a fractional length": (json.dumps({**good, "prompt_length": 2.5}), prompt),
        "ids beyond the vocabulary": (json.dumps(good), [0, len(layout.text_allowed_V), word]),
        "negative ids": (json.dumps(good), [0, -1, word]),
        "placeholders": (json.dumps(good), [0, layout.placeholder_id, word]),
        "a prompt as long as the context": (
            json.dumps({**good, "prompt_length": context_length}),
            [word] * context_length,
        ),
        "no room for a picture": (
            json.dumps({**picture, "prompt_length": context_length - 2}),
            [word] * (context_length - 2),
        ),
        "too few ids for a picture": (
            json.dumps({**picture, "options": {"modality": "image", "max_new_tokens": 2}}),
            prompt,
        ),
        "a broken picture in the prompt": (json.dumps(picture), [0, layout.begin_image_id, word]),
        "too many codes in the prompt": (
            json.dumps(picture),
            [0, layout.begin_image_id, *codes[: codes_of_a_picture + 1]],
        ),
        "an open picture in the prompt of text": (json.dumps(good), [0, layout.begin_image_id, codes[0]]),
        "what a row can't have written": (json.dumps({**good, "prompt_length": 2}), [0, word, codes[0]]),
        "more written than the row may": (json.dumps({"options": {"max_new_tokens": 1}, "prompt_length": 1}), prompt),
        "codes of another number": (
            json.dumps({**picture, "options": {"modality": "image", "fixed_codes": [1, 2, 3]}}),
            prompt,
        ),
        "codes beyond the codebook": (
            json.dumps(
                {**picture, "options": {"modality": "image", "fixed_codes": [len(codes) + 1] * codes_of_a_picture}}
            ),
            prompt,
        ),
        "no weights": (json.dumps({**good, "group": "g", "weights": []}), prompt),
        "four members": (json.dumps({**good, "group": "g", "weights": [1, 1, 1, 1]}), prompt),
        "a member beyond the group": (json.dumps({"group": "g", "member": 2, "weights": [0.5, 0.5]}), prompt),
        "a group without a name": (json.dumps({**good, "weights": [0.5, 0.5]}), prompt),
        "weights of another type": (json.dumps({**good, "group": "g", "weights": ["a", 1]}), prompt),
        "a branch without its row": (json.dumps({"group": "alone", "member": 1, "weights": [0.5, 0.5]}), prompt),
        "a row without its branch": (json.dumps({**picture, "group": "g", "weights": [0.5, 0.5]}), prompt),
    }
