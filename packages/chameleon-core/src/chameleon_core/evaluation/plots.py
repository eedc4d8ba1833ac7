# mypy: disable-error-code="import-not-found"
"""The plots of an evaluation, drawn by matplotlib as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..training.errors import requires_extra
from .results import CardFigure, Evaluation, PictureFigures, VariantFigures
from .tables import CARD, PICTURES, VARIANTS

# Distinguishable by people who don't see all colours: Okabe and Ito, "Color Universal Design", 2008.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#8a8a8a"
WIDTH = 9.0
"""The width of a plot, in inches."""
LEAST_DIVERGENCE = 1e-12
"""Where the bars of divergences begin, in nats."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot, and what it shows for those who don't see it."""

    svg: str
    description: str


def plots(evaluation: Evaluation) -> dict[str, Plot]:
    """Return the plots by the titles of their tables. Raises ``MissingPackageError`` without matplotlib."""
    measured = [each for each in evaluation.variants if each.reason is None]
    known = [each for each in evaluation.card if each.value is not None]
    found = {}
    if evaluation.pictures:
        found[PICTURES] = _of_pictures(evaluation.pictures)
    if measured:
        found[VARIANTS] = _of_variants(measured)
    if known:
        found[CARD] = _of_card(known)
    return found


def _of_pictures(pictures: Sequence[PictureFigures]) -> Plot:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        values = [value for each in pictures for value in each.psnr_of_each]
        low, high = min(values), max(values)
        edges = [low + (high - low + 1e-6) * step / 24 for step in range(25)]
        for each, colour in zip(pictures, _cycle(len(pictures)), strict=True):
            weights = [1 / each.pictures] * each.pictures
            label = f"{each.name} ({each.pictures:,})"
            axes.hist(
                each.psnr_of_each, edges, weights=weights, histtype="step", linewidth=1.8, color=colour, label=label
            )
            axes.axvline(each.psnr, color=colour, linewidth=1, linestyle=":")
        axes.set_xlabel("PSNR of a reconstruction, dB (dotted: the mean)")
        axes.set_ylabel("share of the pictures")
        axes.legend(frameon=False)

    described = "; ".join(f"{each.name}: mean {each.psnr:.1f} dB" for each in pictures)
    return Plot(_svg(draw, height=3.2), f"Histogram of the PSNR of reconstructions. {described}.")


def _of_variants(measured: Sequence[VariantFigures]) -> Plot:
    kinds = {each.kind: None for each in measured}
    colour_of = dict(zip(kinds, COLOURS, strict=False))
    colours = [colour_of[each.kind] for each in measured]
    places = list(range(len(measured)))

    def draw(figure: Any) -> None:
        from matplotlib.patches import Patch

        left, right = figure.subplots(1, 2, sharey=True)
        divergences = [max(each.mean_divergence or 0.0, LEAST_DIVERGENCE) for each in measured]
        left.barh(places, divergences, color=colours)
        left.set_yticks(places, [each.name for each in measured])
        left.set_xscale("log")
        left.set_xlim(LEAST_DIVERGENCE, max(10.0, 1000 * max(divergences)))
        for place, each in zip(places, measured, strict=True):
            left.text(divergences[place] * 1.6, place, f"{each.top1_agreement:.1%}", va="center", fontsize=8)
        left.set_xlabel("mean KL from float32 eager, nats\n(beside the bars: top-1 agreement)")
        speeds = [each.new_ids_per_second or 0.0 for each in measured]
        right.barh(places, speeds, color=colours)
        right.set_xlim(0, 1.2 * max([*speeds, 1.0]))
        for place, speed in zip(places, speeds, strict=True):
            right.text(speed + 0.01 * max(speeds), place, f"{speed:,.0f}", va="center", fontsize=8)
        right.set_xlabel("new ids per second, one row")
        left.invert_yaxis()
        patches = [Patch(color=colour, label=kind) for kind, colour in colour_of.items()]
        figure.legend(handles=patches, loc="outside upper right", ncols=2, frameon=False, fontsize=8)

    described = "; ".join(
        f"{each.name}: KL {each.mean_divergence:.1e}, {each.new_ids_per_second or 0:,.0f} ids/s" for each in measured
    )
    height = 1.3 + 0.32 * len(measured)
    return Plot(_svg(draw, height=height), f"Divergence from float32 eager, and speed. {described}.")


def _of_card(known: Sequence[CardFigure]) -> Plot:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        places = list(range(len(known)))
        values = [100 * (each.value or 0.0) for each in known]
        card = [100 * each.card for each in known]
        axes.hlines(places, card, values, color=GREY, linewidth=2)
        axes.scatter(card, places, s=70, facecolors="none", edgecolors=COLOURS[1], linewidths=1.6, label="the card")
        axes.scatter(values, places, s=18, color=COLOURS[0], label="measured now", zorder=3)
        axes.set_yticks(places, [each.name for each in known], fontsize=8)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of trials, %")
        axes.grid(axis="x", alpha=0.3)
        axes.invert_yaxis()
        axes.legend(frameon=False, fontsize=8)

    same = sum(bool(each.equals) for each in known)
    height = 1.2 + 0.27 * len(known)
    return Plot(
        _svg(draw, height=height),
        f"Figures of the model card beside those measured now: {same} of {len(known)} are equal.",
    )


def _cycle(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _svg(draw: Callable[[Any], None], *, height: float) -> str:
    with requires_extra("plots", extra="eval"):
        import matplotlib
        from matplotlib.figure import Figure
    # The salt makes the names in the file the same each time.
    with matplotlib.rc_context({"svg.hashsalt": "chameleon", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
