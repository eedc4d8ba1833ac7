# mypy: disable-error-code="import-not-found"
"""The curves of a run, as a PNG file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .._files import replacing
from .errors import requires_extra
from .log import read_log

# For each panel, the fields of a log entry and their labels.
_PANELS: dict[str, dict[str, str]] = {
    "cross-entropy (nats)": {
        "text_loss": "text",
        "picture_loss": "pictures",
        "held_out_text_loss": "text, held out",
        "held_out_picture_loss": "pictures, held out",
    },
    "mean log²Z": {"z": "log²Z"},
    "norm of the gradients": {"gradient_norm": "before clipping"},
    "learning rate": {"learning_rate": "learning rate"},
}
# Longer curves are also drawn as means over this many parts of the run.
_POINTS = 50


def plot_curves(log: str | os.PathLike[str], picture: str | os.PathLike[str]) -> None:
    """Plot the losses, log²Z, the norm of the gradients and the learning rate of a log, as PNG.

    Raises ``MissingPackageError`` without matplotlib.
    """
    with requires_extra("drawing curves"):
        from matplotlib.figure import Figure
    entries = read_log(log)
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, (title, fields) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        for field, label in fields.items():
            points = [(entry["step"], entry[field]) for entry in entries if entry.get(field) is not None]
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            if field.startswith("held_out"):
                axes.plot(steps, values, "o--", markersize=3, label=label)
                continue
            (curve,) = axes.plot(steps, values, alpha=0.3, linewidth=0.8)
            axes.plot(*_smooth(steps, values), color=curve.get_color(), label=label)
        axes.set_title(title)
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend()
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _smooth(steps: Sequence[int], values: Sequence[Any]) -> tuple[list[float], list[float]]:
    window = max(1, len(values) // _POINTS)
    starts = range(0, len(values), window)
    return (
        [sum(steps[start : start + window]) / len(steps[start : start + window]) for start in starts],
        [sum(values[start : start + window]) / len(values[start : start + window]) for start in starts],
    )
