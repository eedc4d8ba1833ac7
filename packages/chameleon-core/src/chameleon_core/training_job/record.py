"""What a job is, and the file that says so: another job isn't continued by mistake."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from .._files import read_json, write_json, writing
from ..config import ChameleonConfig
from ..errors import ConfigError, FileFormatError
from ..tokenization import TokenizationOptions
from ..training import TrainingOptions
from .new_model import SHAPE_FIELDS, NewModelOptions
from .options import JobOptions

JOB_FILE = "job.json"
FORMAT = 1
_CHANGEABLE = TrainingOptions.changeable


class _Record(msgspec.Struct, kw_only=True):
    format: int
    model: str | None
    image_tokenizer: str | None
    processor: str | None
    new: dict[str, Any] | None
    config: dict[str, Any]
    options: dict[str, Any]
    tokenization: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is trained, and how."""

    model: str | None = None
    """The model to fine-tune; None for a new one."""
    image_tokenizer: str | None = None
    """What reads pictures, where the model has none."""
    processor: str | None = None
    """The folder with the tokenizer of texts, where the model has none."""
    new: NewModelOptions | None = None
    """The tokenizers of a new model; None to fine-tune one."""
    config: ChameleonConfig | None = None
    """The shape of a new model."""
    options: JobOptions = field(default_factory=JobOptions)
    """What is held out, which parts train, what is written."""
    tokenization: TokenizationOptions = field(default_factory=TokenizationOptions)
    """What documents are made of pictures and captions."""
    training: dict[str, Any] = field(default_factory=dict)
    """The fields of ``TrainingOptions`` that differ from the recipe."""

    def check(self) -> None:
        """Raise ``ConfigError`` where there is nothing to train, or where an option isn't one of training."""
        if (self.model is None) == (self.new is None):
            raise ConfigError("a job fine-tunes a model or trains a new one; give either of them.")
        TrainingOptions.finetuning(**{"steps": 2**62, **self.training})

    def to_dict(self) -> dict[str, Any]:
        """Return the job as it is written."""
        shape = {} if self.config is None else self.config.to_dict()
        return {
            "format": FORMAT,
            "model": self.model,
            "image_tokenizer": self.image_tokenizer,
            "processor": self.processor,
            "new": None if self.new is None else self.new.to_dict(),
            "config": {name: shape[name] for name in SHAPE_FIELDS if name in shape},
            "options": self.options.to_dict(),
            "tokenization": self.tokenization.to_dict(),
            "training": msgspec.to_builtins(self.training),
        }


def absolute(name_or_folder: str | os.PathLike[str]) -> str:
    """Return the absolute path of a folder, or the name or the Hub id as it is."""
    name = os.fspath(name_or_folder)
    return os.path.abspath(name) if os.path.isdir(name) else name


def read_job(output: str | os.PathLike[str]) -> Job:
    """Return the job in a folder. Raises ``ConfigError`` where there is none to resume, ``FileFormatError``."""
    path = Path(output) / JOB_FILE
    record = _read(path)
    source = str(path)
    return Job(
        model=record.model,
        image_tokenizer=record.image_tokenizer,
        processor=record.processor,
        new=None if record.new is None else NewModelOptions.from_dict(record.new, source=source),
        config=None if record.new is None else ChameleonConfig.from_dict(record.config, source=source),
        options=JobOptions.from_dict(record.options, source=source),
        tokenization=TokenizationOptions.from_dict(record.tokenization, source=source),
        training=record.training,
    )


def claim(folder: Path, job: Job, *, resume: bool, has_begun: bool) -> None:
    """Write what the job is, or check that the one in the folder is the same up to what may change.

    A job whose training hasn't begun may be replaced. Raises ``ConfigError``, and ``FileFormatError``.
    """
    path = folder / JOB_FILE
    if not resume:
        if has_begun:
            raise ConfigError(
                f"{folder} has a job already. Continue it with resume (--resume), or choose another folder."
            )
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, job.to_dict())
        return
    before, now = msgspec.to_builtins(_read(path)), msgspec.json.decode(msgspec.json.encode(job.to_dict()))
    changed = []
    for name, value in now.items():
        if not isinstance(value, dict) or not isinstance(before[name], dict):
            changed += [f"{name} {before[name]!r}, now {value!r}"] if before[name] != value else []
            continue
        for each in sorted({*before[name], *value}):
            old, new = before[name].get(each), value.get(each)
            if old != new and not (name == "training" and each in _CHANGEABLE):
                changed.append(f"{each} {old!r}, now {new!r}")
    if changed:
        raise ConfigError(
            f"{folder} has another job: {', '.join(changed)}. Leave these options out, or choose another folder."
        )


def _read(path: Path) -> _Record:
    if not os.path.exists(path):
        raise ConfigError(
            f"{path.parent} has no job to resume ({path.name} is missing). Start one without resume (--resume)."
        )
    try:
        record = msgspec.convert(read_json(path), _Record)
    except msgspec.ValidationError as error:
        raise FileFormatError(f"{path} doesn't describe a job: {error}. Choose another folder.") from error
    if record.format != FORMAT:
        raise FileFormatError(f"{path} has format {record.format}; this version reads {FORMAT}. Choose another folder.")
    return record
