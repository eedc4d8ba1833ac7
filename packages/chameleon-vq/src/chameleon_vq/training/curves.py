"""The entries of a run's log, plotted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .._files import replacing
from ..errors import ConfigError, MissingPackageError

# One panel each: its title, and the keys of the log's entries that it shows.
PANELS = (
    ("loss", ("loss", "l1", "l2", "perceptual", "quantizer", "generator", "discriminator")),
    ("PSNR, dB", ("psnr",)),
    ("SSIM", ("ssim",)),
    ("codes in use (fraction)", ("codebook_usage",)),
    ("perplexity of the codes", ("perplexity",)),
    ("dimensions that the latents use", ("latent_rank",)),
)


def plot_curves(entries: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Plot the entries that ``VQTrainer.fit`` or ``read_log`` returned as a PNG: training solid, validation dotted."""
    if not entries:
        raise ConfigError("there are no entries to plot; expected those of a run that logged at least one step.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "the curves are plotted with matplotlib. Install it: pip install './packages/chameleon-vq[train]'"
        ) from error
    # Not pyplot, whose state is global and which looks for a display.
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, (name, keys) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for key in keys:
            _line(axes, [(entry["step"], entry[key]) for entry in entries if key in entry], key, "-")
            validated = [entry for entry in entries if key in entry.get("validation", {})]
            points = [(entry["step"], entry["validation"][key]) for entry in validated]
            _line(axes, points, f"{key}, validation", "o:")
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    if title:
        figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _line(axes: Any, points: Sequence[tuple[float, float]], label: str, style: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=4)
