"""``chameleon generate``: continue a prompt."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from .prompt import (
    Images,
    ImageTokenizer,
    Model,
    Processor,
    PromptCommand,
    Revision,
    RotaryLayout,
    Subfolder,
    Texts,
    Words,
    read_prompt,
)

SAMPLING = "Sampling (any of these turns it on)"
STEERING = "Constraints and guidance"
LENGTH = "Length"
MODEL = "Model"

MODALITIES = ("text", "image", "interleaved")
"""What every model may write; a processor with segment codecs has more."""

REASONS = {"stop": "finished", "length": "reached the most new ids", "cancelled": "stopped"}
"""What is said of why a document ended."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=PromptCommand, no_args_is_help=True)(generate)


def usable_device(ctx: typer.Context, name: str) -> str:
    """Return the name of a device that torch can use here. Raises ``typer.BadParameter``."""
    if ctx.resilient_parsing:  # a shell asks for completions
        return name
    import torch

    try:
        torch.empty(0, device=name)
    # Which of them depends on how torch was built.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"torch can't use the device {name!r} here: {reason}") from error
    return name


def named_plugin(option: str, example: str, written: str) -> str | dict[str, Any]:
    """Return what an option asks for: a name, or what JSON says. Raises ``typer.BadParameter``."""
    if not written.lstrip().startswith("{"):
        return written
    try:
        return cast("dict[str, Any]", json.loads(written))
    except ValueError as error:
        raise typer.BadParameter(
            f"{option} must be a name, or JSON such as {example}: {error}; got {written!r}"
        ) from error


def listed_processor(written: str) -> str | dict[str, Any]:
    """Return an entry of ``logits_processors``. Raises ``typer.BadParameter``."""
    return named_plugin("--logits-processor", '{"name": "top-k", "k": 5}', written)


def decoding_strategy(written: str) -> str | dict[str, Any]:
    """Return what ``decoding`` takes. Raises ``typer.BadParameter``."""
    return named_plugin("--decoding", '{"name": "beam", "num_beams": 8}', written)


def known_modality(value: str) -> str:
    """Return what to write. Raises ``typer.BadParameter`` for the name of no installed segment codec."""
    if value in MODALITIES:
        return value
    try:
        specs = importlib.import_module("chameleon_text.registry").segment_codec_specs()
    except ImportError:
        specs = []
    names = [*MODALITIES, *(spec.name for spec in specs if spec.name not in MODALITIES)]
    if value not in names:
        raise typer.BadParameter(f"expected one of {', '.join(names)}; got {value!r}.")
    return value


def sides(value: str | None) -> str | None:
    """Return a size that is two numbers with an x between them. Raises ``typer.BadParameter``."""
    if value is not None and re.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}", value) is None:
        raise typer.BadParameter(f"expected the height and width in pixels, such as 512x768; got {value!r}.")
    return value


def generate(
    ctx: typer.Context,
    model: Model,
    prompt: Words = None,
    text: Texts = None,
    image: Images = None,
    modality: Annotated[
        str,
        typer.Option(
            help="What to write: text, image, interleaved or the name of a segment codec.",
            autocompletion=lambda incomplete: [each for each in MODALITIES if each.startswith(incomplete)],
            callback=known_modality,
        ),
    ] = "text",
    template: Annotated[str, typer.Option(help="Format of the prompt: completion, chat or a plugin's.")] = "completion",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="Folder for document.json, document.md and the pictures."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue the document in this folder, which was stopped; prompt and options are those of before.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Maximum number of ids to write, including those of pictures.", rich_help_panel=LENGTH),
    ] = None,
    min_new_tokens: Annotated[
        int | None,
        typer.Option(help="Number of ids before which no text ends, unless by --stop.", rich_help_panel=LENGTH),
    ] = None,
    max_images: Annotated[
        int | None,
        typer.Option(help="Maximum number of pictures in an interleaved document.", rich_help_panel=LENGTH),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Height and width of pictures in pixels, where the model has several: 512x768.",
            metavar="<height>x<width>",
            callback=sides,
            rich_help_panel=LENGTH,
        ),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop after this text; may be repeated.", rich_help_panel=LENGTH)
    ] = None,
    stop_id: Annotated[
        list[int] | None, typer.Option(help="Stop after this id; may be repeated.", rich_help_panel=LENGTH)
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Sample each id instead of taking the likeliest.", rich_help_panel=SAMPLING)
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same document.", rich_help_panel=SAMPLING)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1, likely ids become likelier.", rich_help_panel=SAMPLING)
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Sample among this many of the likeliest ids.", rich_help_panel=SAMPLING)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample among the likeliest ids that hold this probability.", rich_help_panel=SAMPLING),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Sample among ids with this share of the top probability.", rich_help_panel=SAMPLING),
    ] = None,
    typical_p: Annotated[
        float | None,
        typer.Option(help="Sample among the most typical ids that hold this probability.", rich_help_panel=SAMPLING),
    ] = None,
    image_temperature: Annotated[
        float | None, typer.Option(help="As --temperature, for the codes of pictures.", rich_help_panel=SAMPLING)
    ] = None,
    image_top_k: Annotated[
        int | None, typer.Option(help="As --top-k, for the codes of pictures.", rich_help_panel=SAMPLING)
    ] = None,
    image_top_p: Annotated[
        float | None, typer.Option(help="As --top-p, for the codes of pictures.", rich_help_panel=SAMPLING)
    ] = None,
    image_min_p: Annotated[
        float | None, typer.Option(help="As --min-p, for the codes of pictures.", rich_help_panel=SAMPLING)
    ] = None,
    image_typical_p: Annotated[
        float | None, typer.Option(help="As --typical-p, for the codes of pictures.", rich_help_panel=SAMPLING)
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1, text repeats itself less.", rich_help_panel=STEERING)
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(help="Text repeats no sequence of this many ids.", rich_help_panel=STEERING)
    ] = None,
    forbid_id: Annotated[
        list[int] | None, typer.Option(help="Never write this id; may be repeated.", rich_help_panel=STEERING)
    ] = None,
    logits_processor: Annotated[
        list[str] | None,
        typer.Option(
            help="A logits processor of a plugin: its name, or JSON with its name and options; may be repeated.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    guidance_text: Annotated[
        float | None, typer.Option(help="Above 1, pictures follow the text more.", rich_help_panel=STEERING)
    ] = None,
    guidance_image: Annotated[
        float | None, typer.Option(help="Above 1, pictures follow those of the prompt more.", rich_help_panel=STEERING)
    ] = None,
    decoding: Annotated[
        str | None,
        typer.Option(
            help="plain, beam (the best of several texts), jacobi (draws faster), lookup (repeats text faster) or a "
            "plugin's: its name, or JSON with its name and options.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Sample and guide as the paper's release does.", rich_help_panel=STEERING),
    ] = False,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, …", callback=usable_device, rich_help_panel=MODEL)
    ] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, … or auto, what its config says.", rich_help_panel=MODEL)
    ] = "auto",
    attention: Annotated[
        str, typer.Option(help="An attention backend; chameleon doctor lists them.", rich_help_panel=MODEL)
    ] = "sdpa",
    cache: Annotated[
        str | None,
        typer.Option(help="What stores keys and values: dynamic, int8, static or a plugin's.", rich_help_panel=MODEL),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="A weight quantizer, such as int4; chameleon doctor lists them.", rich_help_panel=MODEL),
    ] = None,
    compile: Annotated[  # noqa: A002
        bool,
        typer.Option(
            "--compile",
            help="Compile the steps first, for long runs on a GPU; on a CPU rarely worth it.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    image_tokenizer: ImageTokenizer = None,
    processor: Processor = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    rotary_layout: RotaryLayout = None,
    extra_weights: Annotated[
        str,
        typer.Option(
            help="Weights that the model has no place for, as other heads: refuse, or keep to load it all the same.",
            rich_help_panel=MODEL,
        ),
    ] = "refuse",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads on the CPU; by default 1 for small models, else torch's number.", rich_help_panel=MODEL
        ),
    ] = None,
) -> None:
    """Continue a prompt of texts and pictures, and write the continuation while it is generated.

    Without a prompt, it starts a new document. Ctrl-C stops and keeps what was written.
    """
    from ..generation.options import published_options
    from ..pipeline import Chameleon, load_document, save_document
    from ..pipeline.chameleon import COMPILED_ROWS
    from ..pipeline.written import finished_part
    from ..threads import default_threads, threads_set_to
    from .output import Writer

    parts = read_prompt(ctx, prompt, text, image)
    if modality in ("image", "interleaved") and output is None:
        raise typer.BadParameter(f"--modality {modality} draws pictures; give their folder with --output.")
    sampling = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "image_temperature": image_temperature,
        "image_top_k": image_top_k,
        "image_top_p": image_top_p,
        "image_min_p": image_min_p,
        "image_typical_p": image_typical_p,
        "seed": seed,
    }
    given = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "max_images": max_images,
        "image_size": None if image_size is None else tuple(map(int, image_size.split("x"))),
        "cache_implementation": cache,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "forbidden_ids": tuple(forbid_id) if forbid_id else None,
        "logits_processors": tuple(map(listed_processor, logits_processor)) if logits_processor else None,
        "guidance_text": guidance_text,
        "guidance_image": guidance_image,
        "decoding": None if decoding is None else decoding_strategy(decoding),
        "stop_strings": tuple(stop) if stop else None,
        "stop_ids": tuple(stop_id) if stop_id else None,
        **sampling,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if sample or any(value is not None for value in sampling.values()):
        changes["do_sample"] = True
    written = None if resume is None else load_document(resume)
    console = Console(stderr=True)
    with console.status(f"loading {model}"):
        chameleon = Chameleon.from_pretrained(
            model,
            dtype=dtype,
            device=device,
            attn_implementation=attention,
            quantization=quantization,
            image_tokenizer=image_tokenizer,
            processor=processor,
            revision=revision,
            subfolder=subfolder or "",
            rotary_layout=rotary_layout,
            extra_weights=extra_weights,
        )
    if compile:
        with console.status("compiling the steps"):
            seconds = sum(chameleon.model.compile_decoding(COMPILED_ROWS).values())
        console.print(f"compiled the steps in {seconds:.1f} s", style="dim", highlight=False)
    if threads is None and (threads := default_threads(chameleon.model.get_memory_footprint(), device)):
        console.print(
            f"{threads} thread for a small model; --threads sets another number", style="dim", highlight=False
        )
    with _stopping() as should_stop, threads_set_to(threads):
        writer = Writer(output)
        if written is not None:
            writer.write(finished_part(written, chameleon.layout))
        events = chameleon.stream(
            parts or "",
            modality=modality,
            options=published_options(chameleon.model.config) if published else None,
            template=template,
            written=written,
            should_stop=should_stop,
            **changes,
        )
        finished = writer.follow(events)
    writer.end()
    if output is not None:
        save_document(finished.document, output)
        console.print(f"{REASONS[finished.reason]}; the document is in {output}", style="dim", highlight=False)


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; pressed again, Ctrl-C interrupts as usual."""
    pressed = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
