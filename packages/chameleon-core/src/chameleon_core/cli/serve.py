"""``chameleon serve``: a model over HTTP, which chameleon-serve does."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Annotated, Any

import typer

from .generate import usable_device
from .prompt import Model

WHERE = "Where and for whom"
LIMITS = "Limits"
MODEL = "Model"
KEY_VARIABLE = "CHAMELEON_API_KEY"
"""The variable of the environment that has the key, where it shouldn't be on the command line."""


def named_value(written: str) -> tuple[str, Any]:
    """Return what ``NAME=VALUE`` says. Raises ``typer.BadParameter``."""
    name, equals, value = written.partition("=")
    if not name.isidentifier() or not equals:
        raise typer.BadParameter(f"--engine-option takes NAME=VALUE, such as image_device=cuda; got {written!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def serve_package() -> ModuleType:
    """Import and return ``chameleon_serve``. Raises ``MissingPackageError``."""
    from ..optional_packages import missing_package

    try:
        import chameleon_serve
    except ImportError as error:
        raise missing_package("chameleon-serve", "chameleon serve", error) from error
    return chameleon_serve


def _device(ctx: typer.Context, device: str | None) -> str | None:
    return None if device is None else usable_device(ctx, device)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(serve)


def serve(
    model: Model,
    name: Annotated[str | None, typer.Option(help="What clients call it; by default the last part of MODEL.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default this machine's own.", rich_help_panel=WHERE)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.", rich_help_panel=WHERE)
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=KEY_VARIABLE, help="Key that clients must send; by default none is asked for.", rich_help_panel=WHERE
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<origin>", help="Page whose scripts may use the server; may be repeated.", rich_help_panel=WHERE
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="<name>", help="Further name of the server; may be repeated.", rich_help_panel=WHERE),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the model: core, or vllm with chameleon-vllm.", rich_help_panel=MODEL)
    ] = "core",
    dtype: Annotated[
        str | None, typer.Option(help="Type of the weights: float32, bfloat16, float16.", rich_help_panel=MODEL)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device to compute on: cpu, cuda, cuda:1.", callback=_device, rich_help_panel=MODEL),
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="Attention backend; see chameleon plugins.", rich_help_panel=MODEL)
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="Weight quantizer; see chameleon plugins.", rich_help_panel=MODEL)
    ] = None,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<name>=<value>",
            help="Argument of the engine's from_pretrained, its value in JSON or a text; may be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    engine_process: Annotated[
        bool | None,
        typer.Option(
            "--engine-process/--no-engine-process",
            help="Whether the engine has a process of its own, with a core for its steps; by default it has.",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads on the CPU; by default 1 for a small model, else torch's own.", rich_help_panel=MODEL
        ),
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows that run at a time.", rich_help_panel=LIMITS)] = 32,
    max_positions: Annotated[
        int | None,
        typer.Option(min=1, help="Positions of the cache, of all rows together.", rich_help_panel=LIMITS),
    ] = None,
    prefix_positions: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Positions of beginnings of prompts that are kept; by default what 64 MiB hold.",
            rich_help_panel=LIMITS,
            show_default=False,
        ),
    ] = None,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that wait.", rich_help_panel=LIMITS)] = 256,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Ids that a row may write.", rich_help_panel=LIMITS)
    ] = None,
    max_seconds: Annotated[
        float, typer.Option(help="Seconds of a request, its waiting included.", rich_help_panel=LIMITS)
    ] = 600.0,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a request's body.", rich_help_panel=LIMITS)] = 20
    * 2**20,
    max_pictures: Annotated[int, typer.Option(min=1, help="Pictures of a request.", rich_help_panel=LIMITS)] = 8,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of a picture.", rich_help_panel=LIMITS)] = 2**24,
    stop_seconds: Annotated[
        float, typer.Option(help="Seconds that what runs may take once the server is stopped.", rich_help_panel=LIMITS)
    ] = 60.0,
) -> None:
    """Serve MODEL over HTTP: the API that clients of OpenAI know, documents with all options, and a page at /.

    Ctrl-C stops it; what runs is finished before.
    """
    package = serve_package()
    chosen = {"dtype": dtype, "device": device, "attn_implementation": attention, "quantization": quantization}
    arguments = {name: value for name, value in chosen.items() if value is not None}
    arguments |= dict(map(named_value, engine_option or ()))
    options = package.ServeOptions(
        model=model,
        name=name,
        engine=engine,
        engine_options=arguments,
        engine_process=engine == "core" if engine_process is None else engine_process,
        threads=threads,
        host=host,
        port=port,
        api_key=api_key,
        cors_origins=tuple(cors or ()),
        allowed_hosts=tuple(allowed_host or ()),
        max_rows=max_rows,
        max_positions=max_positions,
        prefix_positions=prefix_positions,
        max_waiting=max_waiting,
        max_new_tokens=max_new_tokens,
        max_seconds=max_seconds,
        max_body_bytes=max_body_bytes,
        max_pictures=max_pictures,
        max_pixels=max_pixels,
        stop_seconds=stop_seconds,
    )
    if not options.is_loopback and api_key is None:
        typer.echo(f"warning: {host} is reached from other machines, and no key is asked for (--api-key).", err=True)
    package.serve(options, ready=lambda address: typer.echo(f"{options.model_name} is served at {address}", err=True))
