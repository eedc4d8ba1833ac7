"""What documents are made of the pictures and captions of a data set, and how the work is cut."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from .._config import Config
from ..errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1)]
Order = Literal["mixed", "caption-first", "picture-first", "picture-only"]


class TokenizationOptions(Config, frozen=True, kw_only=True):
    """The options of one job. Those in ``changeable`` may differ when it is resumed; all others must be the same."""

    order: Order = "mixed"
    """What a document is: "caption-first" or "picture-first", "mixed" (the default), which of both its key decides,
    half of them each, or "picture-only", for which no captions are read."""
    template: Name = "completion"
    """The format of a document: "completion" (the default), of which all ids are targets of the loss, or "chat" or a
    plugin's, in which the first part is the user's turn and the second the answer, which alone is a target."""
    picture_field: Name = "image"
    """The column of a parquet file or a saved dataset that has the pictures; by default "image". In tar shards they
    have suffixes."""
    caption_field: Name | None = None
    """Where the captions are: the column of a parquet file or a saved dataset or the field of a file of captions, by
    default "text", or the suffix of the files beside the pictures of a folder or of a tar shard, by default "txt"."""
    unit_size: Count = 512
    """Pictures of a folder or a saved dataset that are one unit of work and one token shard; ≥ 1, by default 512. A
    tar shard and a row group of a parquet file are a unit each."""
    batch_size: Count = 16
    """Pictures that are encoded together; ≥ 1, by default 16."""
    max_length: Count | None = None
    """The most ids of a document; ≥ 1, None (the default) for the context length of the model."""
    device: str = "cpu"
    """The device that pictures are encoded on, by default "cpu"."""

    changeable: ClassVar[frozenset[str]] = frozenset({"device"})
    """The options that may change when a job is resumed: they change the codes of near-ties at most."""

    def check(self) -> None:
        """Raise ``ConfigError`` where there is no answer for a template of turns."""
        if self.order == "picture-only" and self.template != "completion":
            raise ConfigError(
                f"template {self.template!r} has a turn and an answer, and order 'picture-only' has one part. Use the "
                "template 'completion', or an order with captions."
            )
