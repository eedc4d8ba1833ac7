"""Writes the tables and the plot of ``docs/scaling.md``: what training on many GPUs needs, and how that was checked.

    python benchmarks/scaling_page.py              # write the tables and the plot
    python benchmarks/scaling_page.py --measure    # first measure small steps on 2 and 4 gloo ranks (Linux, a minute)
    python benchmarks/scaling_page.py --check      # say whether the page has these tables

Plans are computed by ``chameleon_core.planning``. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chameleon_core import ChameleonConfig
from chameleon_core.planning import (
    CLUSTERS,
    SHAPES,
    Cluster,
    Parallelism,
    Plan,
    Shape,
    Workload,
    fastest,
    memory_of_rank,
    plan_divisions,
    plan_training,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scaling.md"
MEASURED = Path(__file__).with_name("scaling.json")
PLOT = "scaling.svg"
COUNTS = tuple(2**power for power in range(3, 11))
IDS = 9.2e12
"""The ids that the published models were trained on."""
COLOURS = {1: "#2563a8", 2: "#3a8f5c", 4: "#c2571a", 8: "#8a3f9e"}

SEVEN, LARGE = SHAPES
LLAMA_8B = Shape("Llama 3.1 8B", 32, 4096, 14336, heads=32, kv_heads=8, vocabulary=128_256, qk_norm=False)
LLAMA_70B = Shape("Llama 3 70B", 80, 8192, 28672, heads=64, kv_heads=8, vocabulary=128_256, qk_norm=False)


@dataclass(frozen=True, slots=True)
class Published:
    """A published run, and the plan of it."""

    what: str
    cluster: Cluster
    shape: Shape
    parallelism: Parallelism
    work: Workload
    ids_per_second: float
    """Of a GPU."""
    source: str
    fitted: bool = False
    """Whether the cluster's efficiency is fitted to it."""

    def plan(self) -> Plan:
        """Return the plan of the run."""
        return plan_training(self.shape, self.cluster, self.parallelism, self.work)


def paper(hours: float) -> float:
    """Return the ids of a GPU in a second, from the paper's GPU hours."""
    return IDS / (hours * 3600)


H100, A100 = CLUSTERS["h100"], CLUSTERS["a100"]
HALF, WHOLE = 0.5, 1.0
TITAN, TITAN_TP, TITAN_A100 = "torchtitan, December 2024", "torchtitan, June 2025", "torchtitan, 2024"
PUBLISHED = (
    Published("8B, FSDP", H100, LLAMA_8B, Parallelism(8), Workload(2, 8192, 1, HALF), 6667, TITAN, fitted=True),
    Published("8B, FSDP", H100, LLAMA_8B, Parallelism(128), Workload(2, 8192, 1, HALF), 6514, TITAN),
    Published("8B, 2D", H100, LLAMA_8B, Parallelism(8, 8, True), Workload(12, 8192, 1, HALF), 4378, TITAN_TP),
    Published("70B, 2D", H100, LLAMA_70B, Parallelism(32, 8, True), Workload(16, 8192, 1, WHOLE), 597.3, TITAN_TP),
    Published("8B, FSDP", A100, LLAMA_8B, Parallelism(64), Workload(1, 8192, 1, HALF), 2973, TITAN_A100, fitted=True),
    Published("70B, FSDP", A100, LLAMA_70B, Parallelism(64), Workload(1, 8192, 1, WHOLE), 331, TITAN_A100),
    Published("7B", A100, SEVEN, Parallelism(1024), Workload(2, 4096, 1, WHOLE), paper(856_481), "the paper"),
    Published(
        "34B", A100, LARGE, Parallelism(768, 4, True), Workload(4, 4096, 1, WHOLE), paper(4_282_407), "the paper"
    ),
)

TINY = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 2048,
}
GROUPED = {**TINY, "num_key_value_heads": 4, "swin_norm": True}
# The vocabulary-parallel loss of torch holds all logits, so that they are few.
FEW_IDS, GROUPED_FEW_IDS = {**TINY, "vocab_size": 128}, {**GROUPED, "vocab_size": 128}
KEPT = {"data": 1, "tensor": 1, "sequence": False, "product_bytes": 4, "recomputed": 0.0, "passes": 1}
KEPT |= {"rows": 4, "length": 128}
AGAIN = {**KEPT, "recomputed": 1.0}
CASES = {
    2: [
        {**KEPT, "data": 2, "config": TINY},
        {**AGAIN, "data": 2, "passes": 2, "product_bytes": 2, "config": GROUPED},
        {**KEPT, "tensor": 2, "config": FEW_IDS},
        {**AGAIN, "tensor": 2, "sequence": True, "config": FEW_IDS},
    ],
    4: [
        {**AGAIN, "data": 4, "config": GROUPED},
        {**KEPT, "data": 2, "tensor": 2, "sequence": True, "product_bytes": 2, "config": FEW_IDS},
        {**AGAIN, "data": 2, "tensor": 2, "config": GROUPED_FEW_IDS},
        {**AGAIN, "tensor": 4, "sequence": True, "config": GROUPED_FEW_IDS},
    ],
}
"""What is measured, by the number of ranks."""
# Of the loss on a CPU, as in chameleon_core.training.loss.
CPU_LOSS = {"logits_bytes": 2**27, "statistics_elements": 2**22}


def main() -> int:
    """Write or check the page, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure on gloo ranks first")
    parser.add_argument("--check", action="store_true", help="write nothing; the exit status says whether all is there")
    arguments = parser.parse_args()
    if arguments.measure:
        results = [
            {**case, **found} for ranks in CASES for case, found in zip(CASES[ranks], measure(ranks), strict=True)
        ]
        MEASURED.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    if arguments.check:
        return int(text != with_tables(text))
    PAGE.write_text(with_tables(text), encoding="utf-8")
    write_plot()
    return 0


def measure(ranks: int, cases: Sequence[dict[str, Any]] | None = None) -> list[dict[str, list[float]]]:
    """Return the bytes that each rank sent and its peak of memory, for each case."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "cases.json")
        listed.write_text(json.dumps(CASES[ranks] if cases is None else cases), encoding="utf-8")
        command = [sys.executable, str(Path(__file__).with_name("_sharded_step.py")), str(listed)]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [*command, str(rank), str(ranks), folder], env=environment, stderr=subprocess.PIPE, text=True
            )
            for rank in range(ranks)
        ]
        try:
            said = [each.communicate(timeout=300)[1] for each in started]
        finally:
            for each in started:
                each.kill()
        for each, words in zip(started, said, strict=True):
            if each.returncode:
                raise RuntimeError(f"a rank failed with {each.returncode}:\n{words}")
        results: list[dict[str, list[float]]] = json.loads(Path(folder, "measured.json").read_text(encoding="utf-8"))
        return results


def planned(case: dict[str, Any]) -> Plan:
    """Return the plan of a measured case."""
    shape = Shape.of(ChameleonConfig(**case["config"]), "tiny")
    parallelism = Parallelism(case["data"], case["tensor"], case["sequence"])
    work = Workload(case["rows"], case["length"], case["passes"], case["recomputed"], case["product_bytes"])
    return plan_training(shape, H100, parallelism, work)


def planned_bytes(case: dict[str, Any]) -> float:
    """Return the bytes that a rank sends in a measured case.

    Gloo has no reduce-scatter of its own: it reduces the whole tensor on all ranks, and each keeps its part.
    """
    plan = planned(case)
    by_gloo = {"reduce-scatter": "all-reduce"}
    sent = (replace(each, operation=by_gloo.get(each.operation, each.operation)) for each in plan.messages)
    return sum(each.sent(plan.parallelism) for each in sent)


def planned_memory(case: dict[str, Any]) -> float:
    """Return the memory of a rank in a measured case, with the loss's chunks for a CPU."""
    plan = planned(case)
    return memory_of_rank(plan.shape, plan.parallelism, plan.work, **CPU_LOSS).total


def with_tables(text: str) -> str:
    """Return the page with its tables as they are now."""
    tables = {
        **{shape.name: plans_table(shape) for shape in SHAPES},
        "divisions": divisions_table(),
        "measured": measured_table(),
        "published": published_table(),
    }
    for name, table in tables.items():
        begin, end = f"<!-- begin: {name} -->\n", "<!-- end -->"
        head, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"{PAGE.name} has no block {name!r}: {begin.strip()} … {end}.")
        text = f"{head}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def plans_table(shape: Shape) -> str:
    """Return the fastest plan for each number of GPUs."""
    rows = []
    for count in COUNTS:
        plan = fastest(plan_divisions(shape, H100, count))
        if plan is None:
            rows.append((f"{count:,}", "too large", *["–"] * 6))
            continue
        hours = IDS / plan.ids_per_second / 3600
        rows.append((f"{count:,}", *cells(plan), f"{hours / count / 24:,.0f}"))
    return table(("GPUs", "divided", *HEADS, "days for 9.2 trillion ids"), rows)


def divisions_table() -> str:
    """Return every plan of both models on 64 GPUs."""
    rows = [(shape.name, *cells(plan)) for shape in SHAPES for plan in plan_divisions(shape, H100, 64)]
    return table(("model", "divided", *HEADS), rows)


HEADS = ("memory of a rank", "sent by a rank", "step", "waiting", "ids/s of a GPU", "of its rate")


def cells(plan: Plan) -> tuple[str, ...]:
    """Return what a row of a table says of a plan."""
    waiting = (plan.time.tensor + plan.time.data) / plan.time.total
    return (
        str(plan.parallelism),
        f"{plan.memory.total / 1e9:.1f} GB" if plan.fits else f"{plan.memory.total / 1e9:.1f} GB, too large",
        f"{plan.sent / 1e9:.1f} GB",
        f"{plan.time.total:.2f} s",
        f"{waiting:.0%}",
        f"{plan.ids_per_second:,.0f}",
        f"{plan.utilization:.0%}",
    )


def measured_table() -> str:
    """Return what was measured on gloo ranks beside what is planned."""
    rows = []
    for case in json.loads(MEASURED.read_text(encoding="utf-8")):
        plan, expected, memory = planned(case), planned_bytes(case), planned_memory(case)
        sent, most = sum(case["sent"]) / len(case["sent"]), max(case["memory"])
        layers = "again" if case["recomputed"] else "kept"
        variant = ", grouped, swin_norm" if case["config"].get("swin_norm") else ""
        work = f"{'float32' if case['product_bytes'] == 4 else 'bfloat16'}, {layers}, {case['passes']} pass"
        rows.append(
            (
                str(plan.parallelism),
                f"{work}{'es' if case['passes'] > 1 else ''}{variant}",
                f"{sent / 1e6:.3f} MB",
                f"{expected / 1e6:.3f} MB",
                f"{expected / sent - 1:+.1%}",
                f"{most / 1e6:.2f} MB",
                f"{memory / 1e6:.2f} MB",
                f"{memory / most - 1:+.1%}",
            )
        )
    heads = ("divided", "step", "sent by a rank", "planned", "", "memory of a rank", "planned", "")
    return table(heads, rows)


def published_table() -> str:
    """Return published throughput beside what is planned."""
    rows = []
    for each in PUBLISHED:
        plan = each.plan()
        rows.append(
            (
                f"{each.shape.name}, {each.parallelism.ranks:,} {each.cluster.device.name}",
                str(each.parallelism),
                each.source,
                f"{each.ids_per_second:,.0f}",
                f"{plan.ids_per_second:,.0f}",
                "fitted" if each.fitted else f"{plan.ids_per_second / each.ids_per_second:.2f}×",
            )
        )
    return table(
        ("run", "divided", "published by", "published, ids/s of a GPU", "planned", "planned to published"), rows
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, whose first column is text and whose others are numbers."""
    lines = [heads, ("---", *["---:"] * (len(heads) - 1)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_plot() -> None:
    """Write the plot, the same bytes for the same numbers."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "chameleon", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
    figure = draw(Figure(figsize=(9, 6), layout="constrained"))
    figure.savefig(PAGE.with_name(PLOT), metadata={"Date": None}, facecolor="white")


def draw(figure: Figure) -> Figure:
    """Draw ids per second and memory against the number of GPUs, a row of panels for each model."""
    panels = figure.subplots(2, 2, sharex=True)
    for row, shape in zip(panels, SHAPES, strict=True):
        plans = {count: plan_divisions(shape, H100, count) for count in COUNTS}
        for tensor, colour in COLOURS.items():
            found = [plan for count in COUNTS for plan in plans[count] if plan.parallelism.tensor == tensor]
            counts = [plan.parallelism.ranks for plan in found]
            fitting = [plan.ids_per_second if plan.fits else float("nan") for plan in found]
            label = f"{tensor} tensor-parallel"
            row[0].plot(counts, fitting, color=colour, marker="o", label=label)
            row[1].plot(counts, [plan.memory.total / 1e9 for plan in found], color=colour, marker="o")
        row[1].axhline(H100.device.memory / 1e9, color="#555555", linestyle="--", linewidth=1)
        row[1].text(COUNTS[-1], H100.device.memory / 1e9, "an H100", ha="right", va="bottom", color="#555555")
        row[0].set(ylabel=f"{shape.name}: planned ids/s of a GPU", xscale="log")
        row[1].set(ylabel=f"{shape.name}: planned GB of a rank", xscale="log")
    for panel in panels.flat:
        panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
        panel.set_xticks(list(COUNTS), [f"{count:,}" for count in COUNTS])
        panel.xaxis.minorticks_off()
    for panel in panels[-1]:
        panel.set(xlabel="GPUs")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS), frameon=False
    )
    return figure


if __name__ == "__main__":
    sys.exit(main())
