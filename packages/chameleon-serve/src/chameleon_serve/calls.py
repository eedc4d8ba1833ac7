"""What a request asks of the pipeline, and its way there: pictures to codes, options checked, rows begun.

All but the last is done before a request waits, so that one that can't be met doesn't, and none that waits is large.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chameleon_core import Chameleon, ContextLengthError, GenerationOptions
from chameleon_core.picture_grammars import Grid
from chameleon_core.pipeline import Event
from chameleon_core.pipeline.editing import keep_outside, keep_some, read_codes
from chameleon_text import Document, Image

from .errors import RequestError
from .options import ServeOptions
from .refusals import refused_options

_SEEDS = 2**53
"""One more than the largest seed that is chosen here: a number that JavaScript holds exactly."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Which part of a picture is drawn anew: cells of its grid, what a mask shows, or a share."""

    picture: Image
    cells: Sequence[int] | None = None
    mask: Any = None
    strength: float | None = None


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request for answers, read and checked as far as it is without the model."""

    document: Document
    """The prompt, its template included."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``GenerationOptions`` that differ from the model's own."""
    rows: int = 1
    """How many answers are written."""
    negative: Document | None = None
    """The negative prompt, its template included."""
    edit: Edit | None = None
    """The picture of which a part is drawn anew."""
    written: Sequence[Any] | None = None
    """What an earlier run wrote."""
    preview_every: int = 0
    """Every how many codes a picture is shown as far as it is drawn."""
    previews: int = 0
    """How often a picture is shown while it is drawn, in place of ``preview_every``."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A call that is known to be possible, with nothing large in it: its pictures are codes."""

    document: Document
    """The prompt, its template included."""
    options: GenerationOptions
    """Its options, with the seed that was chosen."""
    rows: int
    """How many answers are written."""
    written: Sequence[Any] | None
    """What an earlier run wrote."""
    preview_every: int
    """Every how many codes a picture is shown as far as it is drawn."""
    prompt_tokens: int
    """How many ids its prompt has."""


def prepared(chameleon: Chameleon, call: Call, limits: ServeOptions) -> Ready:
    """Return a call whose pictures are read and whose options are checked.

    Raises ``ChameleonCoreError`` where the model can't do what is asked.
    """
    options = checked_options(chameleon, call, limits)
    document = coded(call.document, chameleon)
    prompt_tokens = len(chameleon.processor.encode(document, template="completion"))
    if prompt_tokens >= chameleon.model.config.context_length:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} ids, and the context {chameleon.model.config.context_length}. Shorten it."
        )
    if call.negative is not None:
        negative = chameleon.prompt_ids(coded(call.negative, chameleon), template="completion")
        options = options.replace(negative_prompt_ids=negative)
    if call.edit is not None:
        options = options.replace(modality="image", **_fixed(call.edit, chameleon, options.seed))
    every = call.preview_every
    if call.previews:
        every = -(-chameleon.layout.tokens_per_image // (call.previews + 1))
    return Ready(
        document=document,
        options=options,
        rows=call.rows,
        written=coded(call.written, chameleon) if isinstance(call.written, Document) else call.written,
        preview_every=every,
        prompt_tokens=prompt_tokens,
    )


def begin(chameleon: Chameleon, ready: Ready, seconds: float, should_stop: Callable[[], bool]) -> Generator[Event]:
    """Begin the rows of a call, which have so many ``seconds``, and return their events.

    Raises ``ChameleonCoreError`` where the model can't do what is asked.
    """
    asked = ready.options.max_time
    return chameleon.stream_batch(
        [ready.document] * ready.rows,
        options=ready.options.replace(max_time=seconds if asked is None else min(seconds, asked)),
        written=None if ready.written is None else [ready.written] * ready.rows,
        preview_every=ready.preview_every,
        should_stop=should_stop,
    )


def checked_options(chameleon: Chameleon, call: Call, limits: ServeOptions) -> GenerationOptions:
    """Return the options of a call, within the limits, with a seed where they sample.

    Raises ``RequestError`` for what this server doesn't take, ``ConfigError`` for impossible values.
    """
    for name, value in call.options.items():
        if name not in GenerationOptions.__struct_fields__ or name == "extras":
            raise RequestError(
                f"Unknown parameter: 'options.{name:.60}'. It is no field of GenerationOptions.",
                param=f"options.{name:.60}",
                code="unknown_parameter",
            )
        if (reason := refused_options(name, value, limits.engine)) is not None:
            raise RequestError(reason, param=f"options.{name}", code="unsupported_parameter")
    options = chameleon.model.generation_options.replace(**call.options)
    most = limits.max_new_tokens
    if most is not None and options.max_new_tokens is not None and options.max_new_tokens > most:
        if "max_new_tokens" in call.options:
            raise RequestError(
                f"max_new_tokens is {options.max_new_tokens}; this server writes at most {most}.",
                param="options.max_new_tokens",
                code="invalid_value",
            )
        options = options.replace(max_new_tokens=most)
    elif most is not None and options.max_new_tokens is None:
        options = options.replace(max_new_tokens=most)
    if options.do_sample and options.seed is None:
        options = options.replace(seed=secrets.randbelow(_SEEDS))
    return options


def coded(document: Document, chameleon: Chameleon) -> Document:
    """Return a document whose pictures are read, once for all rows."""
    return Document(
        coded_picture(segment, chameleon) if isinstance(segment, Image) and segment.image is not None else segment
        for segment in document
    )


def coded_picture(picture: Image, chameleon: Chameleon) -> Image:
    """Return a picture as its codes and its grid, without its pixels."""
    if picture.codes is not None:
        return Image(codes=picture.codes, grid=picture.grid)
    codes, grid = read_codes(picture.image, chameleon.image_tokenizer, chameleon.layout)
    return Image(codes=tuple(codes), grid=(grid.height, grid.width))


def _fixed(edit: Edit, chameleon: Chameleon, seed: int | None) -> dict[str, Any]:
    """Return the options that draw a part of a picture anew."""
    layout = chameleon.layout
    picture = coded_picture(edit.picture, chameleon)
    grid = layout.pictures.grids[0] if picture.grid is None else Grid(*picture.grid)
    codes = list(picture.codes or ())
    if len(codes) != layout.pictures.num_codes(grid):
        raise RequestError(
            f"the picture has {len(codes)} codes; one of {grid.height}×{grid.width} has "
            f"{layout.pictures.num_codes(grid)}.",
            param="picture",
        )
    if edit.cells is not None:
        kept = _keep_other_cells(edit.cells, codes, grid)
    elif edit.mask is not None:
        if edit.picture.image is None:
            raise RequestError("a mask needs the picture itself, for its size; use cells for codes.", param="mask")
        kept = keep_outside(edit.mask, edit.picture.image, codes, grid, chameleon.image_tokenizer, layout)
    else:
        assert edit.strength is not None
        kept = keep_some(codes, grid, edit.strength, seed)
    changes: dict[str, Any] = {"fixed_codes": kept}
    if layout.pictures.has_sizes:
        changes["image_size"] = layout.pictures.pixels(grid)
    return changes


def _keep_other_cells(cells: Sequence[int], codes: Sequence[int], grid: Grid) -> tuple[int | None, ...]:
    count = grid.height * grid.width
    if not cells or max(cells) >= count:
        raise RequestError(
            f"cells are the positions 0…{count - 1} of the picture's grid that are drawn anew, at least one.",
            param="cells",
            code="invalid_value",
        )
    each, anew = len(codes) // count, frozenset(cells)
    return tuple(None if place // each in anew else code for place, code in enumerate(codes))
