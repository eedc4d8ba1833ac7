"""``chameleon-vq train``: a folder of pictures to an image tokenizer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .field_options import FieldCommand, FieldGroup, given
from .sources import Pictures, named_pictures
from .terminal import echo, print_message


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=TrainCommand, no_args_is_help=True)(train)


def _groups() -> tuple[FieldGroup, ...]:
    from ..config import ChameleonVQVAEConfig
    from ..training import TrainingOptions

    return (
        FieldGroup(TrainingOptions, "Training", omitted=("perceptual_weight",)),  # there is no perceptual loss here
        FieldGroup(ChameleonVQVAEConfig, "Architecture", omitted=("in_channels", "out_channels")),  # files are RGB
    )


class TrainCommand(FieldCommand):
    """The command with an option for each field of the options of training and of the configuration."""

    groups = staticmethod(_groups)


def train(
    ctx: typer.Context,
    pictures: Pictures,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the job.", file_okay=False)],
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with fields of the configuration; options replace them.", exists=True, dir_okay=False
        ),
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(min=0, help="Pictures to measure on, not to train on; by default one in 20, at most 64."),
    ] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Flip each picture half of the time.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the job in the folder. Its options needn't be given again.")
    ] = False,
    device: Annotated[str, typer.Option(help="Device to train on, such as cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON.")] = False,
) -> None:
    """Train an image tokenizer on pictures, and write it with its curves, reconstructions and figures.

    Pictures that can't be read are listed in refused.jsonl, with the reason.
    """
    from .._files import read_json
    from ..config import ChameleonVQVAEConfig
    from ..errors import ConfigError
    from ..training import TrainingOptions
    from ..training_job import read_job, train_image_tokenizer

    architecture, options = ChameleonVQVAEConfig(), TrainingOptions()
    if resume:
        before = read_job(output)
        architecture, options = before.config, before.options
        held_out = before.held_out if held_out is None else held_out
        mirror = mirror or before.mirror
    if config is not None:
        fields = read_json(config)
        kind = ChameleonVQVAEConfig
        known = {*kind.__struct_fields__, *kind.aliases, *kind.known_extras, "model_type"}
        if unknown := sorted(set(fields) - known):
            raise ConfigError(f"{config} has unknown fields: {', '.join(unknown)}.")
        architecture = ChameleonVQVAEConfig.from_dict(fields, source=str(config))
    architecture = architecture.replace(**given(ctx, ChameleonVQVAEConfig))
    options = options.replace(**given(ctx, TrainingOptions))
    named = named_pictures(pictures)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("reading the pictures", total=len(named))

            def count() -> None:
                progress.advance(task)
                if progress.finished:  # training shows a bar of its own
                    progress.stop()

            done = train_image_tokenizer(
                named,
                output,
                config=architecture,
                options=options,
                held_out=held_out,
                mirror=mirror,
                resume=resume,
                device=device,
                on_read=count,
            )
    except (KeyboardInterrupt, SystemExit):
        print_message(
            "stopped, and saved if a step was done: the same command with --resume continues.", style="bold red"
        )
        raise
    if done.refused:
        print_message(f"{done.refused:,} pictures were left out; {output}/refused.jsonl says why.", style="yellow")
    if as_json:
        echo(json.dumps({**dataclasses.asdict(done), "folder": str(done.folder)}, indent=2))
        return
    measured = ""
    if done.figures:
        psnr, ssim, usage = (done.figures[name] for name in ("psnr", "ssim", "codebook_usage"))
        measured = f"; held out {done.held_out:,}: {psnr:.2f} dB, SSIM {ssim:.3f}, {usage:.0%} of the codes used"
    echo(f"{done.folder}: trained on {done.pictures:,} pictures{measured}")
