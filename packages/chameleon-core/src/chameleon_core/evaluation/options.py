"""What is evaluated, and on what."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .._config import Config

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
QUESTION = "what is this?"


class EvaluationOptions(Config, frozen=True, kw_only=True):
    """What to measure. A part whose source is None is left out; of the embedded model see ``evaluate``."""

    pictures: str | None = None
    """A folder of pictures to measure the image tokenizer on; None, the default, for none."""
    text: str | None = None
    """A text file to measure perplexity on; None, the default, for none."""
    captions: str | None = None
    """Pictures with captions to name: a folder, a tar shard or a parquet file; None, the default, for none."""
    drawings: str | None = None
    """Pictures with captions to draw, in the same forms; None, the default, for none."""
    question: str = QUESTION
    """What is asked about a picture of ``captions``; by default "what is this?"."""
    template: str = "chat"
    """The prompt template of questions and requests; by default "chat"."""
    limit: Count | None = None
    """The most pictures that are taken of each source, ≥ 1; None, the default, for all."""
    max_ids: Count | None = None
    """The most ids of the text that are predicted, ≥ 1; None, the default, for all."""
    seed: Natural = 0
    """What drawings, and ids where there is no data, are drawn by, ≥ 0; 0 by default."""
    variants: bool = True
    """Whether attention backends and weight quantizers are compared; True by default."""
    only: tuple[str, ...] | None = None
    """The backends and quantizers to compare; None, the default, for all that are installed."""
    positions: Count = 512
    """About how many positions they are compared at, ≥ 1; 512 by default."""
    quick: bool = False
    """Whether the embedded model's card is measured without the drawings, and its image tokenizer on fewer pictures;
    False by default. The figures of the card that are measured are the same."""
