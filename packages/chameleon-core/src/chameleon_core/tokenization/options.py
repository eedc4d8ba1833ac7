"""What documents are made of the pictures and captions of a data set, and how the work is cut."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from .._config import Config

Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1)]
Order = Literal["mixed", "caption-first", "picture-first", "picture-only"]


class TokenizationOptions(Config, frozen=True, kw_only=True):
    """The options of one job. Those in ``changeable`` may differ when it is resumed; all others must be the same."""

    order: Order = "mixed"
    """What a document is: "caption-first" or "picture-first", "mixed" (the default), which of both its key decides,
    half of them each, or "picture-only", for which no captions are read."""
    picture_field: Name = "image"
    """The column of a parquet file that has the pictures; by default "image". In tar shards they have suffixes."""
    caption_field: Name | None = None
    """Where the captions are: the column of a parquet file or the field of a folder's ``metadata.jsonl``, by default
    "text", or the suffix of the files beside the pictures of a folder or of a tar shard, by default "txt"."""
    unit_size: Count = 512
    """Pictures of a folder that are one unit of work and one token shard; ≥ 1, by default 512. A tar shard and a row
    group of a parquet file are a unit each."""
    batch_size: Count = 16
    """Pictures that are encoded together; ≥ 1, by default 16."""
    max_length: Count | None = None
    """The most ids of a document; ≥ 1, None (the default) for the context length of the model."""
    device: str = "cpu"
    """The device that pictures are encoded on, by default "cpu"."""

    changeable: ClassVar[frozenset[str]] = frozenset({"device"})
    """The options that may change when a job is resumed: they change the codes of near-ties at most."""
