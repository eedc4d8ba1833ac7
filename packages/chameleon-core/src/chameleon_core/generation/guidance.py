"""Classifier-free guidance, run only for the branches that differ."""

from __future__ import annotations

from collections.abc import Sequence

from ..layout import TokenLayout
from .options import GenerationOptions
from .rows import Row


def text_branch(row: Row, options: GenerationOptions) -> dict[tuple[int, ...], float]:
    """Return the branch of the guidance of text: a context other than the row's ids, with its weight.

    The guided logits ``uncond + guidance_scale · (full − uncond)`` are a weighted sum over the row's ids and its new
    ids after the negative prompt, or without one after the last id of the prompt.
    """
    context = (*(options.negative_prompt_ids or row.prompt[-1:]), *row.new_ids)
    return {} if context == tuple(row.ids) else {context: 1 - options.guidance_scale}


def picture_branches(row: Row, options: GenerationOptions) -> dict[tuple[int, ...], float]:
    """Return the branches of the guidance of the open picture of a row, as ``guidance_branches`` does."""
    assert row.layout is not None
    return guidance_branches(
        row.ids, row.layout, options.guidance_text, options.guidance_image, options.negative_prompt_ids
    )


def guidance_branches(
    ids: Sequence[int],
    layout: TokenLayout,
    guidance_text: float,
    guidance_image: float,
    negative_ids: Sequence[int] = (),
) -> dict[tuple[int, ...], float]:
    """Return the branches of the guidance of an open picture: contexts other than ``ids``, with their weights.

    The guided logits ``uncond + guidance_image · (images − uncond) + guidance_text · (full − images)`` are a weighted
    sum over three contexts: all of ``ids``, its pictures only, and nothing but the open picture. Branches of weight 0
    are dropped and branches of equal contexts merged: without an earlier picture the last two are the same, and at
    scales of 1 only the full context is left. The weights sum to 1; that of ``ids`` is 1 minus the sum of those
    returned.

    ``negative_ids``, those of a negative prompt, begin the two contexts that leave out the text.
    """
    if guidance_text == guidance_image == 1:  # weights of 0
        return {}
    begin = len(ids) - 1 - list(reversed(ids)).index(layout.begin_image_id)
    kept = {layout.bos_id, layout.begin_image_id, layout.end_image_id} | layout.pictures.marker_ids
    images_only = tuple(token_id for token_id in ids if token_id in kept or token_id in layout.picture_ids)
    unconditional = (layout.bos_id, *ids[begin:])
    if negative_ids:
        images_only = (*negative_ids, *(token_id for token_id in images_only if token_id != layout.bos_id))
        unconditional = (*negative_ids, *ids[begin:])
    weights: dict[tuple[int, ...], float] = {}
    for context, weight in ((images_only, guidance_image - guidance_text), (unconditional, 1 - guidance_image)):
        weights[context] = weights.get(context, 0.0) + weight
    weights.pop(tuple(ids), None)
    return {context: weight for context, weight in weights.items() if weight}
