"""Classifier-free guidance over contexts, run only for the branches that differ."""

from __future__ import annotations

from collections.abc import Sequence

from ..layout import TokenLayout


def guidance_branches(
    ids: Sequence[int], layout: TokenLayout, guidance_text: float, guidance_image: float
) -> dict[tuple[int, ...], float]:
    """The contexts besides ``ids`` itself that an open picture needs, and each one's weight; ``ids`` has the rest.

    ``uncond + g_image · (images − uncond) + g_text · (full − images)`` is a weighted sum of three logits. A branch of
    weight zero isn't run, and branches of one context are one branch: without a picture in the context "its pictures
    only" is "none of it", and at scale 1 nothing but the full context is left. The weights sum to 1, so that of
    ``ids`` is 1 minus the sum of those returned.
    """
    begin = len(ids) - 1 - list(reversed(ids)).index(layout.begin_image_id)
    kept = {layout.bos_id, layout.begin_image_id, layout.end_image_id}
    images_only = tuple(token_id for token_id in ids if token_id in kept or token_id in layout.picture_ids)
    unconditional = (layout.bos_id, *ids[begin:])
    weights: dict[tuple[int, ...], float] = {}
    for context, weight in ((images_only, guidance_image - guidance_text), (unconditional, 1 - guidance_image)):
        weights[context] = weights.get(context, 0.0) + weight
    weights.pop(tuple(ids), None)
    return {context: weight for context, weight in weights.items() if weight}
