"""From folders of pictures to a trained image tokenizer, in one call that continues where it was stopped.

The output has ``job.json``, which says what the job is; ``run/``, the folder of the trainer; and, at the end,
``tokenizer/``, ``curves.png``, ``reconstructions.png`` and ``results.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import PIL.Image
import torch

from ._files import read_json, replacing, write_json, writing
from .config import ChameleonVQVAEConfig
from .errors import ConfigError, FileFormatError
from .image_processor import ChameleonImageProcessor
from .model import ChameleonVQVAE
from .picture_files import pictures_in
from .reconstruction import reconstruct
from .tokenizer import ImageTokenizer
from .training import PictureFiles, TrainingOptions, VQTrainer, initialize, measure, plot_curves, with_plain_codebook
from .training.checkpoints import CHECKPOINT_FILE

__all__ = ["JobSettings", "TrainedImageTokenizer", "read_job", "train_image_tokenizer"]

JOB_FILE = "job.json"
RESULTS_FILE = "results.json"
REFUSED_FILE = "refused.jsonl"
"""The pictures that can't be read: a line of JSON for each, with ``key`` and ``reason``."""
RUN_FOLDER = "run"
TOKENIZER_FOLDER = "tokenizer"
CURVES_FILE = "curves.png"
RECONSTRUCTIONS_FILE = "reconstructions.png"
FORMAT = 1
MOST_HELD_OUT = 64
"""The pictures that are held out of large folders."""
_SHOWN = 12
_COLUMNS = 2
_GAP = 8


@dataclass(frozen=True, slots=True)
class TrainedImageTokenizer:
    """What a job has made."""

    folder: Path
    """The folder of the image tokenizer, for ``ImageTokenizer.from_pretrained``."""
    pictures: int
    """The pictures that it was trained on."""
    held_out: int
    """The pictures that were held out, on which ``figures`` are measured."""
    refused: int
    """The pictures that can't be read; ``refused.jsonl`` says why."""
    figures: dict[str, float]
    """``psnr``, ``ssim``, ``codebook_usage`` and ``perplexity`` of the held-out pictures; {} where there are none."""


class _Job(msgspec.Struct, kw_only=True):
    format: int
    config: dict[str, Any]
    options: dict[str, Any]
    held_out: Annotated[int, msgspec.Meta(ge=0)]
    mirror: bool
    pictures: str
    """A hash of the names and sizes of the files."""


class JobSettings(NamedTuple):
    """What was asked for in a job."""

    config: ChameleonVQVAEConfig
    """The architecture."""
    options: TrainingOptions
    """The options of training."""
    held_out: int
    """The number of pictures that are held out."""
    mirror: bool
    """Whether pictures are flipped half of the time."""


def read_job(output: str | os.PathLike[str]) -> JobSettings:
    """Return what was asked for in the job in a folder.

    Raises ``ConfigError`` where there is none to resume, ``FileFormatError``.
    """
    job = _read(Path(output))
    source = str(Path(output) / JOB_FILE)
    return JobSettings(
        ChameleonVQVAEConfig.from_dict(job.config, source=source),
        TrainingOptions.from_dict(job.options, source=source),
        job.held_out,
        job.mirror,
    )


def train_image_tokenizer(
    pictures: str | os.PathLike[str] | Mapping[Path, str],
    output: str | os.PathLike[str],
    *,
    config: ChameleonVQVAEConfig,
    options: TrainingOptions,
    held_out: int | None = None,
    mirror: bool = False,
    resume: bool = False,
    device: str = "cpu",
    on_read: Callable[[], None] | None = None,
) -> TrainedImageTokenizer:
    """Train an image tokenizer on picture files, and write it with its curves, reconstructions and figures.

    ``pictures`` is a folder, or has the path of each file and its name, by which ``held_out`` of them are chosen: by
    default one in twenty, at least one of two and at most 64. Files that can't be read are listed in ``refused.jsonl``.

    A job that was stopped continues with ``resume``, from its last checkpoint, and ends with the same weights bit for
    bit as one that wasn't. Ctrl-C and SIGTERM save the current step before they are raised.

    Raises ``ConfigError`` where the folder has a job and ``resume`` is false, or another job or none and it is true,
    ``ImageError`` where no picture can be read, and what ``VQTrainer`` raises.
    """
    folder = Path(output)
    if not isinstance(pictures, Mapping):
        source = Path(pictures)
        pictures = {path: path.relative_to(source).as_posix() for path in pictures_in(source)}
    named = pictures
    if held_out is None:
        held_out = min(MOST_HELD_OUT, max(len(pictures) // 20, min(1, len(pictures) - 1)))
    if not 0 <= held_out < len(pictures):
        raise ConfigError(
            f"held_out is {held_out} of {len(pictures)} pictures; expected at least one to be left to train on."
        )
    job = _Job(
        format=FORMAT,
        config=config.to_dict(),
        options=options.to_dict(),
        held_out=held_out,
        mirror=mirror,
        pictures=_digest(pictures),
    )
    _claim(folder, job, resume=resume)
    refused: dict[str, str] = {}

    def read(paths: list[Path], *, mirror: bool) -> PictureFiles:
        return PictureFiles(
            paths,
            processor,
            mirror=mirror,
            on_error=lambda path, error: refused.update({named[path]: str(error)}),
            on_read=on_read,
        )

    processor = ChameleonImageProcessor.meta(config.resolution)
    chosen = _held_out(pictures, held_out)
    trained = read([path for path in pictures if path not in chosen], mirror=mirror)
    measured = read([path for path in pictures if path in chosen], mirror=False)
    _write_refused(folder / REFUSED_FILE, refused)
    torch.manual_seed(options.seed)
    model = ChameleonVQVAE(config)
    initialize(model)
    model.to(device)
    pixels_BCHW = None
    if len(measured):
        pixels_BCHW = measured.pixels(range(len(measured)), np.random.default_rng(0))
    entries = VQTrainer(model, options, folder=folder / RUN_FOLDER).fit(trained, validation_BCHW=pixels_BCHW)
    plot_curves(entries, folder / CURVES_FILE, title=f"{len(trained):,} pictures")
    # The others have what others read, or no codebook at all.
    plain = with_plain_codebook(model) if config.quantizer == "ema" else model
    tokenizer = ImageTokenizer(plain, processor)
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    figures: dict[str, float] = {}
    if pixels_BCHW is not None:
        figures = asdict(measure(tokenizer.model, pixels_BCHW.to(device), batch_size=options.batch_size))
    _write_sheet(folder / RECONSTRUCTIONS_FILE, tokenizer, (measured.paths or trained.paths)[:_SHOWN])
    results: dict[str, Any] = {
        "pictures": len(trained),
        "held_out": len(measured),
        "refused": len(refused),
        "figures": figures,
    }
    write_json(folder / RESULTS_FILE, results)
    return TrainedImageTokenizer(folder / TOKENIZER_FOLDER, **results)


def _held_out(pictures: Mapping[Path, str], number: int) -> set[Path]:
    """Return so many of the pictures, by a hash of their names, so that the order in which they come has no effect."""

    def key(path: Path) -> bytes:
        return hashlib.sha256(pictures[path].encode(errors="surrogateescape")).digest()

    return set(sorted(pictures, key=key)[:number])


def _digest(pictures: Mapping[Path, str]) -> str:
    """Return a hash, in hex, of the names and sizes of the files."""
    digest = hashlib.sha256()
    for path, name in pictures.items():
        size = os.path.getsize(path) if os.path.isfile(path) else -1
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _claim(folder: Path, job: _Job, *, resume: bool) -> None:
    """Write what the job is, or check that the one in the folder is the same."""
    path = folder / JOB_FILE
    if not resume:
        if os.path.exists(folder / RUN_FOLDER / CHECKPOINT_FILE):  # without one, nothing is lost
            raise ConfigError(
                f"{folder} has a job already. Continue it with resume (--resume), or choose another folder."
            )
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, msgspec.to_builtins(job))
        return
    before = _read(folder)
    if before.pictures != job.pictures:
        raise ConfigError(
            f"{folder} has a job with other pictures: files were added, removed or changed. Restore them, or choose "
            "another folder."
        )
    changed = [
        f"{name} {old!r}, now {new!r}"
        for name, old, new in (
            *((name, before.config.get(name), value) for name, value in job.config.items()),
            ("held_out", before.held_out, job.held_out),
            ("mirror", before.mirror, job.mirror),
        )
        if old != new
    ]
    if changed:
        raise ConfigError(
            f"{folder} has a job with other options: {', '.join(changed)}. Leave them out, or choose another folder."
        )


def _read(folder: Path) -> _Job:
    path = folder / JOB_FILE
    if not os.path.exists(path):
        raise ConfigError(
            f"{folder} has no job to resume ({JOB_FILE} is missing). Start one without resume (--resume)."
        )
    try:
        job = msgspec.convert(read_json(path), _Job)
    except msgspec.ValidationError as error:
        raise FileFormatError(f"{path} doesn't describe a job: {error}. Choose another folder.") from error
    if job.format != FORMAT:
        raise FileFormatError(f"{path} has format {job.format}; this version reads {FORMAT}. Choose another folder.")
    return job


def _write_refused(path: Path, refused: Mapping[str, str]) -> None:
    with writing(path), replacing(path) as temporary:
        lines = [json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in refused.items()]
        temporary.write_text("".join(lines), encoding="utf-8")


def _write_sheet(path: Path, tokenizer: ImageTokenizer, pictures: list[Path]) -> None:
    """Write pictures beside their reconstructions, several to a row."""
    pairs = [each.side_by_side() for each in reconstruct(tokenizer, pictures)]
    width, height = (side + _GAP for side in pairs[0].size)
    sheet = PIL.Image.new("RGB", (_COLUMNS * width, -(-len(pairs) // _COLUMNS) * height), "white")
    for number, pair in enumerate(pairs):
        sheet.paste(pair, (number % _COLUMNS * width, number // _COLUMNS * height))
    with writing(path), replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
