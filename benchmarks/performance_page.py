"""Writes the tables and plots of ``docs/performance.md``: what was measured, from a JSON file, and what is computed.

    python benchmarks/performance_page.py            # write the tables and the plots
    python benchmarks/performance_page.py --check    # say whether the page has these tables

``performance.py`` measures, and runs this afterwards. Plots need matplotlib; the tables need chameleon-core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roofline import (
    BFLOAT16,
    DEVICES,
    INT4,
    PRECISIONS,
    SHAPES,
    Device,
    Shape,
    memory_needed,
    picture_seconds,
    prefill_seconds,
    step_seconds,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
MEASURED = Path(__file__).with_name("performance.json")
MEASURED_PLOT, COMPUTED_PLOT = "performance-measured.svg", "performance-computed.svg"
BATCHES = (1, 8, 32, 128)
CONTEXT, PROMPT = 1024, 1056
BLUE, ORANGE = "#2563a8", "#c2571a"


def main() -> int:
    """Write or check the page, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; the exit status says whether all is there")
    if parser.parse_args().check:
        text = PAGE.read_text(encoding="utf-8")
        return int(text != with_tables(text, read_measured()))
    write()
    return 0


def read_measured() -> Any:
    """Return what ``performance.py`` measured."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def write() -> None:
    """Write the page's tables, and the plots."""
    measured = read_measured()
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8")
    write_plots(measured)


def with_tables(text: str, measured: Mapping[str, Any]) -> str:
    """Return the page with its tables as they are now."""
    tables = {
        "measured": measured_tables(measured),
        "sizes": sizes_table(),
        "steps": steps_table(),
        "pictures": pictures_table(),
    }
    for name, table in tables.items():
        begin, end = f"<!-- begin: {name} -->\n", "<!-- end -->"
        head, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"{PAGE.name} has no block {name!r}: {begin.strip()} … {end}.")
        text = f"{head}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def measured_tables(measured: Mapping[str, Any]) -> str:
    """Return what was measured and where, a table for each of the three questions."""
    machine = measured["machine"]
    disturbed = [point for sweep in measured["sweeps"] for point in sweep["points"] if point["disturbed"]]
    lines = [
        f"Measured on {machine['date']}: {machine['processor']}, {machine['threads']} threads "
        f"({', '.join(machine['instructions'])}), torch {machine['versions']['torch']}, transformers "
        f"{machine['versions']['transformers']}; load {measured['load']['begin']:.1f} at the beginning, "
        f"{measured['load']['end']:.1f} at the end."
    ]
    if disturbed:
        lines.append(
            f"**Other processes took the processor in {len(disturbed)} of these measurements, marked (d): their times "
            "are too long, and ratios are rough.**"
        )
    for sweep in measured["sweeps"]:
        rows = [
            (
                f"{point['value']:,}{' (d)' if point['disturbed'] else ''}",
                f"{point['ours']:.2f}",
                f"{point['peer']:.2f}",
                f"{point['peer'] / point['ours']:.2f}×",
                f"{point['limit'] / point['ours']:.2f}",
                f"±{point['spread']:.0%}",
            )
            for point in sweep["points"]
        ]
        heads = (
            sweep["axis"],
            f"ours, {sweep['unit']}",
            f"transformers, {sweep['unit']}",
            "ratio",
            "of limit",
            "spread",
        )
        lines.append(f"{sweep['what']}:\n\n{table(heads, rows)}")
    return "\n\n".join(lines)


def sizes_table() -> str:
    """Return the sizes of the models."""
    heads = (
        "model",
        "parameters",
        *(f"{each.name}" for each in PRECISIONS),
        "4,096 positions",
        "positions as large as the weights",
    )
    rows = [
        (
            shape.name,
            f"{shape.parameters / 1e9:.2f} billion",
            *(f"{memory_needed(shape, each) / 1e9:.1f} GB" for each in PRECISIONS),
            f"{4096 * shape.cached_bytes / 1e9:.2f} GB",
            f"{shape.weights_read() * BFLOAT16.weight_bytes / shape.cached_bytes:,.0f}",
        )
        for shape in SHAPES
    ]
    return table(heads, rows)


def steps_table() -> str:
    """Return the milliseconds of a step for batches of several sizes."""
    heads = ("model, device, weights", *(f"batch {batch}" for batch in BATCHES), "batch 1 after 4,096")
    rows = []
    for shape, device in pairs():
        for precision in PRECISIONS:
            cells = []
            for batch, context in (*((batch, CONTEXT) for batch in BATCHES), (1, 4096)):
                fits = memory_needed(shape, precision, context, batch) <= device.memory
                seconds = step_seconds(shape, device, precision, contexts=(context,) * batch)
                cells.append(f"{1000 * seconds:.2f} ms" if fits else "too large")
            rows.append((f"{shape.name}, {device.name}, {precision.name}", *cells))
    return table(heads, rows)


def pictures_table() -> str:
    """Return the time of a prompt and of a guided picture."""
    heads = ("model, device", f"prompt of {PROMPT:,}", *(f"guided picture, {each.name}" for each in PRECISIONS))
    rows = [
        (
            f"{shape.name}, {device.name}",
            f"{1000 * prefill_seconds(shape, device, length=PROMPT):.1f} ms",
            *(f"{picture_seconds(shape, device, each):.2f} s" for each in PRECISIONS),
        )
        for shape, device in pairs()
    ]
    return table(heads, rows)


def pairs() -> list[tuple[Shape, Device]]:
    """Return each model with each device."""
    return [(shape, device) for shape in SHAPES for device in DEVICES]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, whose first column is text and whose others are numbers."""
    lines = [heads, ("---", *["---:"] * (len(heads) - 1)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_plots(measured: Mapping[str, Any]) -> None:
    """Write both plots, the same bytes for the same numbers."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "chameleon", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
    figures = {
        MEASURED_PLOT: measured_plot(Figure(figsize=(9, 3.2), layout="constrained"), measured),
        COMPUTED_PLOT: computed_plot(Figure(figsize=(9, 3.6), layout="constrained")),
    }
    for name, figure in figures.items():
        figure.savefig(PAGE.with_name(name), metadata={"Date": None}, facecolor="white")


def measured_plot(figure: Figure, measured: Mapping[str, Any]) -> Figure:
    """Draw a panel for each sweep, ours beside ``transformers``."""
    panels: Sequence[Axes] = figure.subplots(1, len(measured["sweeps"]))
    for panel, sweep in zip(panels, measured["sweeps"], strict=True):
        values = [point["value"] for point in sweep["points"]]
        for key, label, colour, marker in (("peer", "transformers", ORANGE, "s"), ("ours", "ours", BLUE, "o")):
            panel.plot(values, [point[key] for point in sweep["points"]], label=label, color=colour, marker=marker)
        panel.set(xlabel=sweep["axis"], ylabel=sweep["unit"], xscale="log", ylim=(0, None))
        ticks(panel, values)
    panels[0].legend(frameon=False)
    return figure


def computed_plot(figure: Figure) -> Figure:
    """Draw a step against the batch, and a token against the context."""
    left, right = figure.subplots(1, 2)
    styles = {BFLOAT16: "-", INT4: ":"}
    batches, contexts = [2**power for power in range(9)], [128 * 2**power for power in range(6)]
    for shape, device in pairs():
        colour = BLUE if shape is SHAPES[0] else ORANGE
        for precision, style in styles.items():
            label = f"{shape.name}, {device.name}, {precision.name}"
            look = {"color": colour, "linestyle": style, "alpha": 1.0 if device is DEVICES[0] else 0.5}
            fitting = [each for each in batches if memory_needed(shape, precision, CONTEXT, each) <= device.memory]
            steps = [1000 * step_seconds(shape, device, precision, contexts=(CONTEXT,) * each) for each in fitting]
            left.plot(fitting, steps, label=label, **look)
            tokens = [1000 * step_seconds(shape, device, precision, contexts=(each,)) for each in contexts]
            right.plot(contexts, tokens, **look)
    left.set(xlabel=f"batch (context {CONTEXT:,})", ylabel="computed ms a step", xscale="log", yscale="log")
    right.set(xlabel="context (batch 1)", ylabel="computed ms a token", xscale="log", ylim=(0, None))
    ticks(left, batches[::2])
    left.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    ticks(right, contexts)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=7.5)
    return figure


def ticks(panel: Axes, values: Sequence[float]) -> None:
    """Label the values of a logarithmic axis, and nothing between them."""
    panel.set_xticks(list(values), [f"{value:,}" for value in values])
    panel.xaxis.minorticks_off()
    panel.yaxis.minorticks_off()


if __name__ == "__main__":
    sys.exit(main())
