"""``chameleon plan``: what training a model on many GPUs would need, computed from the model's shape."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .prompt import Revision, Subfolder, model_folder
from .rows import print_rows, size
from .terminal import echo

if TYPE_CHECKING:
    from ..config import ChameleonConfig
    from ..planning import Plan, Shape


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(plan)


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="7b or 34b, the published shapes; or a folder with a config, an installed model, a Hub id.",
        ),
    ],
    gpus: Annotated[int, typer.Option(min=1, help="GPUs in all.")],
    device: Annotated[str, typer.Option(help="What they are: a100, h100 or h200.")] = "h100",
    tensor_parallel: Annotated[
        int | None,
        typer.Option(min=1, help="GPUs that divide each layer; by default the number that is fastest and fits."),
    ] = None,
    sequence_parallel: Annotated[
        bool, typer.Option(help="Whether they divide the positions between layers, too.")
    ] = True,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a pass for each GPU.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Positions of a row.")] = 4096,
    passes: Annotated[int, typer.Option(min=1, help="Passes of a step, whose gradients are accumulated.")] = 1,
    checkpointing: Annotated[
        bool, typer.Option(help="Whether activations are computed again in the backward pass.")
    ] = True,
    ids: Annotated[float | None, typer.Option(min=1, help="Ids to train on, as 9.2e12: prints days, too.")] = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")] = False,
) -> None:
    """Compute what training MODEL on many GPUs needs: memory of each, bytes that it sends, time of a step.

    Nothing is measured and no GPU is needed. Exit status 1 says that no way to divide the model fits.
    """
    from ..errors import ConfigError
    from ..planning import Parallelism, Workload, fastest, find_cluster, plan_divisions, plan_training

    cluster = find_cluster(device)
    shape = _shape(model, revision, subfolder)
    recomputed = 1.0 if checkpointing else 0.0
    if tensor_parallel is None:
        plans = plan_divisions(shape, cluster, gpus, rows=rows, length=length, passes=passes, recomputed=recomputed)
        if not sequence_parallel:
            plans = [
                plan_training(shape, cluster, Parallelism(each.parallelism.data, each.parallelism.tensor), each.work)
                for each in plans
            ]
    else:
        if gpus % tensor_parallel:
            raise ConfigError(
                f"{gpus} GPUs can't be divided into groups of {tensor_parallel}. Choose a multiple of "
                f"{tensor_parallel} for --gpus, or a divisor of {gpus} for --tensor-parallel."
            )
        parallelism = Parallelism(
            gpus // tensor_parallel, tensor_parallel, sequence=sequence_parallel and tensor_parallel > 1
        )
        work = Workload(rows=rows * tensor_parallel, length=length, passes=passes, recomputed=recomputed)
        plans = [plan_training(shape, cluster, parallelism, work)]
    best = fastest(plans)
    if as_json:
        import msgspec

        echo(msgspec.json.format(msgspec.json.encode(_facts(plans, best, ids))).decode())
    else:
        _show(plans, best, ids, Console(highlight=False))
    if best is None:
        raise typer.Exit(1)


def _shape(model: str, revision: str | None, subfolder: str | None) -> Shape:
    """Return the shape that MODEL names. Raises ``ModelNotFoundError``."""
    from ..errors import ModelNotFoundError
    from ..planning import SHAPES, Shape

    published = {shape.name.lower(): shape for shape in SHAPES}
    if model.lower() in published and not os.path.exists(model):
        return published[model.lower()]
    try:
        return Shape.of(_config(model, revision, subfolder), model)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error} The published shapes are {' and '.join(published)}.") from error


def _config(model: str, revision: str | None, subfolder: str | None) -> ChameleonConfig:
    """Return the configuration of a model, whose weights aren't needed where its config is a file of its own."""
    from ..checkpoints import read_checkpoint
    from ..config import ChameleonConfig
    from ..errors import MissingFileError

    where: dict[str, Any] = {"revision": revision, "subfolder": subfolder or ""}
    try:
        return ChameleonConfig.from_pretrained(model, **where)
    except MissingFileError:
        # Other formats describe the model in files of theirs. Its shape is the same however its heads rotate.
        return read_checkpoint(model_folder(model, revision, subfolder), rotary_layout="halves").config


def _facts(plans: list[Plan], best: Plan | None, ids: float | None) -> dict[str, Any]:
    """Return what the plans say, for programs: bytes, seconds, shares."""
    from dataclasses import asdict

    return {
        "model": asdict(plans[0].shape),
        "cluster": asdict(plans[0].cluster),
        "fastest": None if best is None else plans.index(best),
        "plans": [
            {
                "parallelism": asdict(each.parallelism),
                "work": asdict(each.work),
                "memory": {**asdict(each.memory), "total": each.memory.total},
                "fits": each.fits,
                "messages": [{**asdict(message), "sent": message.sent(each.parallelism)} for message in each.messages],
                "sent": each.sent,
                "time": {**asdict(each.time), "total": each.time.total},
                "ids": each.ids,
                "ids_per_second": each.ids_per_second,
                "utilization": each.utilization,
                **({} if ids is None else {"days": _days(each, ids), "gpu_hours": _gpu_hours(each, ids)}),
            }
            for each in plans
        ],
    }


def _show(plans: list[Plan], best: Plan | None, ids: float | None, console: Console) -> None:
    shape, cluster, device = plans[0].shape, plans[0].cluster, plans[0].cluster.device
    work = plans[0].work
    heads = f"{shape.heads} heads ({shape.kv_heads} of keys and values)"
    again = "computed again in the backward pass" if work.recomputed else "kept for the backward pass"
    sections = {
        "step": [
            ("model", f"{shape.name}: {shape.layers} layers, {shape.hidden} wide, {heads}", ""),
            ("", f"{shape.parameters / 1e9:.3g} billion weights in float32, products in bfloat16", ""),
            ("ids", f"{plans[0].ids:,}: {plans[0].ids // work.length:,} rows of {work.length:,}", ""),
            ("activations", again, ""),
        ],
        "cluster": [
            ("device", f"{device.name}: {size(device.memory)}, {device.rate / 1e12:.0f} TFLOP/s in bfloat16", ""),
            ("", f"products at {cluster.efficiency:.1%} of that, as in the published run that it is fitted to", ""),
            ("wires", f"{size(cluster.link)}/s within a node of {cluster.per_node}", ""),
            ("", f"{size(cluster.network)}/s between nodes, for each device", ""),
        ],
        "ways to divide it": [_about(each, best) for each in plans],
    }
    shown = best or min(plans, key=lambda each: each.memory.total)
    title = "fastest that fits" if len(plans) > 1 else "plan"
    sections[title if best else "least memory"] = _details(shown, ids)
    width = max(len(name) for rows in sections.values() for name, _, _ in rows)
    for name, rows in sections.items():
        console.print(f"[bold]{name}[/]")
        print_rows(console, rows, width=width)
        console.print()
    if best is None:
        console.print("Nothing fits: use more GPUs, fewer --rows, a shorter --length, or --checkpointing.", style="red")


def _about(each: Plan, best: Plan | None) -> tuple[str, str, str]:
    fit = "" if each.fits else ", too large"
    note = (
        f"{size(each.memory.total)}{fit}, sends {size(each.sent)}, {_seconds(each.time.total)}, "
        f"{each.ids_per_second:,.0f} ids/s for each GPU"
    )
    style = "bold" if each is best else "" if each.fits else "yellow"
    return str(each.parallelism), note, style


def _details(each: Plan, ids: float | None) -> list[tuple[str, str, str]]:
    memory, time = each.memory, each.time
    parts = {
        "weights": memory.weights,
        "AdamW": memory.moments,
        "gradients": memory.gradients,
        "gathered": memory.gathered,
        "activations": memory.activations,
        "output layer and loss": memory.output,
    }
    sent = {over: sum(m.sent(each.parallelism) for m in each.messages if m.over == over) for over in ("data", "tensor")}
    rows = [
        ("divided", str(each.parallelism), ""),
        ("memory", f"{size(memory.total)} of a GPU, most in {memory.moment}", ""),
        ("", ", ".join(f"{name} {size(part)}" for name, part in parts.items()), ""),
        (
            "sent",
            f"{size(each.sent)} by each GPU: {size(sent['data'])} over data, {size(sent['tensor'])} over tensor",
            "",
        ),
        (
            "time",
            f"{_seconds(time.total)}: products {_seconds(time.products)}, waiting for tensor "
            f"{_seconds(time.tensor)} and data {_seconds(time.data)}, optimizer {_seconds(time.optimizer)}",
            "",
        ),
        ("speed", f"{each.ids_per_second:,.0f} ids/s for each GPU, {each.utilization:.0%} of its rate", ""),
    ]
    if ids is not None:
        rows.append(
            ("run", f"{_days(each, ids):,.3g} days, {_gpu_hours(each, ids):,.0f} GPU hours for {ids:.3g} ids", "")
        )
    return rows


def _gpu_hours(each: Plan, ids: float) -> float:
    return ids / each.ids_per_second / 3600


def _days(each: Plan, ids: float) -> float:
    return _gpu_hours(each, ids) / each.parallelism.ranks / 24


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
