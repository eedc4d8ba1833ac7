"""A run's records as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .._files import replacing
from ..errors import ConfigError, MissingPackageError

# A panel per figure: its title, and the records' keys that it shows.
PANELS = (
    ("loss", ("loss", "l1", "l2", "perceptual", "quantizer", "generator", "discriminator")),
    ("PSNR, dB", ("psnr",)),
    ("SSIM", ("ssim",)),
    ("codes in use (fraction)", ("codebook_usage",)),
    ("perplexity of the codes", ("perplexity",)),
    ("dimensions that the latents use", ("latent_rank",)),
)


def plot_curves(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw what ``VQTrainer.fit`` gave, or ``read_log`` read, as a PNG: training as lines, validation dotted."""
    if not records:
        raise ConfigError("there are no records to plot.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "the curves are drawn by matplotlib. Install it: pip install './packages/chameleon-vq[train]'"
        ) from error
    # Not through pyplot: its state is global and looks for a screen.
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, (name, keys) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for key in keys:
            _line(axes, [(record["step"], record[key]) for record in records if key in record], key, "-")
            validated = [record for record in records if key in record.get("validation", {})]
            points = [(record["step"], record["validation"][key]) for record in validated]
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
