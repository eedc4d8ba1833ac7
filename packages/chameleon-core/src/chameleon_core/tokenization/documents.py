"""The work of one process: the token shard of a unit, and the record that says what is in it and what was refused.

Shapes: B pictures, C channels, H W pixels, T ids of a document.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .._boundary import translates_errors
from .._commits import stored
from .._files import read_bytes, write_json
from .._workers import MOST_READINGS, Journal
from ..checkpoints import read_checkpoint
from ..checkpoints.resolve import resolve_folder
from ..config import CONFIG_FILE, ChameleonConfig
from ..errors import ChameleonCoreError
from ..folder_parts import load_image_tokenizer
from ..layout import TokenLayout
from ..optional_packages import text_package, vq_package
from ..pipeline.attach import other_image_tokenizer, other_processor
from ..pipeline.parts import check_image_tokenizer
from ..protocols import ProcessorLike, SizedImageTokenizerLike
from ..training.data import TokenDocument, check_ids, write_shard
from .options import TokenizationOptions
from .samples import Sample, read_samples
from .units import Unit

RECORDS = "units"
"""The folder of records, beside the shards while a job runs."""


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """Where the tokenizers of a model are, so that other processes can load them."""

    model: str
    """The model's folder, name or Hub id."""
    image_tokenizer: str | None = None
    """What reads pictures, where the model has none."""
    processor: str | None = None
    """The folder with the tokenizer of texts, where the model has none."""

    @translates_errors
    def load(self, options: TokenizationOptions) -> Encoder:
        """Load them."""
        folder = resolve_folder(self.model)
        has_config = os.path.isfile(stored(folder, CONFIG_FILE))
        config = ChameleonConfig.from_pretrained(folder) if has_config else read_checkpoint(folder).config
        layout = TokenLayout.from_config(config)
        if self.image_tokenizer is None:
            reader = load_image_tokenizer(folder, device=options.device)
        else:
            reader = other_image_tokenizer(self.image_tokenizer, folder, device=options.device)
        check_image_tokenizer(reader, layout)
        processor = other_processor(folder, self.processor, reader, self.image_tokenizer, layout.sized_pictures)
        if options.template != "completion":
            processor.encode([""], template=options.template)  # of an unknown one, an error now and not for each sample
        return Encoder(config, layout, processor, cast(SizedImageTokenizerLike, reader), options)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes samples as documents of a model."""

    config: ChameleonConfig
    layout: TokenLayout
    processor: ProcessorLike
    image_tokenizer: SizedImageTokenizerLike
    options: TokenizationOptions

    def tokenizer_hash(self) -> str:
        """Return a hash, in hex, of what determines the ids: the ``tokenizer.json`` and the encoder of pictures."""
        with tempfile.TemporaryDirectory() as name:
            self.processor.save_pretrained(Path(name))
            digest = hashlib.sha256(read_bytes(Path(name, "tokenizer.json")))
        digest.update(getattr(self.image_tokenizer, "fingerprint", "").encode())
        return digest.hexdigest()

    @translates_errors
    def read(self, sample: Sample) -> Any:
        """Return the picture of a sample: pixels [1, C, H, W], or the picture itself for a model with several sizes.

        Raises ``ChameleonCoreError`` where it can't be read.
        """
        picture: Any = sample.picture
        if isinstance(picture, bytes):
            limit = cast(Any, self.image_tokenizer.image_processor).pixel_limit
            picture = vq_package().picture_files.open_data(picture, sample.key, pixel_limit=limit, exif=False)
        return picture if self.layout.pictures.has_sizes else self.image_tokenizer.pixels([picture])

    @translates_errors
    def encode_pixels(self, pixels_BCHW: Tensor) -> list[Any]:
        """Return pictures as segments with their codes."""
        image = text_package().Image
        return [image(codes=codes_N) for codes_N in self.image_tokenizer.encode_pixels(pixels_BCHW)]

    @translates_errors
    def document(self, sample: Sample, picture: Any) -> TokenDocument:
        """Return the document of a sample, whose picture is a segment or, with several sizes, a picture.

        Raises ``ChameleonCoreError`` where it can't be one.
        """
        parts: list[Any] = [picture]
        if sample.caption is not None:
            parts = [sample.caption, picture] if self._caption_first(sample.key) else [picture, sample.caption]
        ids, trained_T = self._encoded(parts)
        longest = self.options.max_length or self.config.max_position_embeddings
        if len(ids) > longest:
            raise ChameleonCoreError(f"the document has {len(ids):,} ids, expected at most {longest:,}")
        document = TokenDocument(sample.key, np.asarray(ids), trained_T)
        check_ids(document, self.config.vocab_size)
        return document

    def _encoded(self, parts: list[Any]) -> tuple[list[int], np.ndarray | None]:
        """Return the ids of a document, and bool [T]: which of them are targets; None for all."""
        if self.options.template == "completion":
            return [*self.processor.encode(parts, template="completion"), self.layout.eos_id], None
        text = text_package()
        turns = [
            text.Turn(role, (part,)) for role, part in zip(("user", "assistant"), text.as_document(parts), strict=True)
        ]
        processor = cast(Any, self.processor)
        example = processor.encode_for_training(turns, template=self.options.template, labels="answer")
        return example.input_ids, np.asarray(example.labels) != text.IGNORE_INDEX

    def _caption_first(self, key: str) -> bool:
        if self.options.order == "mixed":
            return hashlib.sha256(key.encode()).digest()[0] % 2 == 0
        return self.options.order == "caption-first"


class UnitWriter:
    """Writes the token shard of a unit into a folder, and its record: ``{"documents", "ids", "refused"}``."""

    def __init__(self, tokenizers: Tokenizers, folder: Path, options: TokenizationOptions) -> None:
        # The processes share the processors, and codes don't depend on how many threads there are.
        torch.set_num_threads(1)
        self._encoder = tokenizers.load(options)
        self._folder = folder
        self._batch_size = options.batch_size
        self._options = options

    def __call__(self, numbered: tuple[int, Unit]) -> None:
        """Write the shard of a unit, and then its record. What was there is replaced by the same bytes."""
        number, unit = numbered
        refused: list[dict[str, str]] = []

        def refuse(sample: Sample, reason: object) -> None:
            refused.append({"key": sample.key, "source": unit.path, "reason": str(reason)})

        journal_path = record_path(self._folder, number).with_suffix(".reading")
        with Journal(journal_path) as journal:
            documents = list(self._documents(unit, journal, refuse))
        write_shard(self._folder, number, documents)
        record = {"documents": len(documents), "ids": sum(map(len, documents)), "refused": refused}
        write_json(record_path(self._folder, number), record)
        journal_path.unlink(missing_ok=True)

    def _documents(self, unit: Unit, journal: Journal, refuse: Any) -> Iterator[TokenDocument]:
        for batch in _batches(self._read(unit, journal, refuse), self._batch_size):
            try:
                samples, pictures = [each for each, _ in batch], [picture for _, picture in batch]
                if not self._encoder.layout.pictures.has_sizes:
                    pictures = self._encoder.encode_pixels(torch.cat(pictures))
            except ChameleonCoreError as error:  # of their size, which they share
                for sample in samples:
                    refuse(sample, error)
                continue
            for sample, picture in zip(samples, pictures, strict=True):
                try:
                    yield self._encoder.document(sample, picture)
                except ChameleonCoreError as error:
                    refuse(sample, error)

    def _read(self, unit: Unit, journal: Journal, refuse: Any) -> Iterator[tuple[Sample, Any]]:
        """Yield the samples of a unit with their pictures, those that can be read."""
        for number, sample in enumerate(read_samples(unit, self._options)):
            reason = sample.problem
            if reason is None and not _is_text(sample.key):
                reason = "its name isn't UTF-8"
            if reason is None and journal.deaths(number) >= MOST_READINGS:
                reason = f"reading it ended the process, {journal.deaths(number)} times"
            if reason is not None:
                refuse(sample, reason)
                continue
            try:
                with journal.reading(number):
                    picture = self._encoder.read(sample)
            except ChameleonCoreError as error:
                refuse(sample, error)
            else:
                yield sample, picture


def record_path(folder: Path, number: int) -> Path:
    """Return the path of the record of a unit, by the unit's number."""
    return folder / RECORDS / f"{number:05d}.json"


def _batches(read: Iterable[tuple[Sample, Any]], size: int) -> Iterator[list[tuple[Sample, Any]]]:
    """Yield up to ``size`` pictures that are next to each other and have pixels of one shape."""
    batch: list[tuple[Sample, Any]] = []
    for sample, picture in read:
        shape = getattr(picture, "shape", None)
        if batch and (len(batch) == size or shape != getattr(batch[0][1], "shape", None)):
            yield batch
            batch = []
        batch.append((sample, picture))
    if batch:
        yield batch


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
