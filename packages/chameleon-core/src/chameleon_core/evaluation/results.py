"""What an evaluation measured: one class for each part, all plain numbers, and the JSON of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FORM = 1
"""The number of the JSON's form: it is raised where a name changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class PictureFigures:
    """How well the image tokenizer's codes keep a set of pictures; means over the pictures."""

    name: str
    """What the pictures are: the folder, or a part of the embedded model's."""
    pictures: int
    """How many there are."""
    psnr: float
    """Peak signal-to-noise ratio of the reconstructions, of 8-bit pictures, in dB; a perfect copy counts as 100."""
    psnr_lowest_tenth: float
    """The mean over the tenth of the pictures with the lowest PSNR, in dB."""
    ssim: float
    """Structural similarity (Wang et al. 2004), −1…1, with uniform windows of 7 pixels."""
    codes_used: float
    """The share of the codes that these pictures use, 0…1."""
    perplexity: float
    """2 to the entropy of the codes in bits: the number of codes if all were used equally."""
    encoded_per_second: float
    """Pictures that are encoded in a second."""
    decoded_per_second: float
    """Pictures that are decoded in a second."""
    lpips: float | None = None
    """The mean perceptual distance, by the function that was given; None without one."""
    rfid: float | None = None
    """The Fréchet distance of the features of reconstructions and originals, by the function that was given."""
    psnr_of_each: tuple[float, ...] = ()
    """The PSNR of each picture, in the order of their names."""


@dataclass(frozen=True, slots=True)
class TextFigures:
    """How well the model predicts a text."""

    name: str
    """The file."""
    ids: int
    """How many ids were predicted."""
    characters: int
    """How many characters the predicted part of the text has."""
    perplexity: float
    """e to the mean negative log-likelihood of an id, among all ids of the vocabulary."""
    bits_per_byte: float
    """The negative log-likelihood of the text in bits, by its bytes in UTF-8."""


@dataclass(frozen=True, slots=True)
class CaptionFigures:
    """How the model's captions compare with references."""

    name: str
    """Where the pictures are from."""
    pictures: int
    """How many there are."""
    exact: float
    """The share of captions that are one of their references, 0…1; without case, and spaces around them."""
    cider_d: float | None
    """CIDEr-D (Vedantam et al. 2015), the mean over the pictures, 0…10; None where no word is rarer than another."""
    examples: tuple[tuple[str, str], ...] = ()
    """The first references, each with the model's caption."""


@dataclass(frozen=True, slots=True)
class DrawingFigures:
    """How the model's drawings compare with reference pictures of the same prompts."""

    name: str
    """Where the references are from."""
    drawings: int
    """How many there are."""
    psnr: float
    """The mean PSNR of a drawing and its reference, in dB."""
    ssim: float
    """The mean structural similarity of both."""
    near: float
    """The share of drawings whose PSNR with their reference is above 20 dB, 0…1."""


@dataclass(frozen=True, slots=True)
class VariantFigures:
    """A backend or quantizer beside the same model in float32 with the attention backend ``eager``."""

    kind: str
    """"attention backend" or "weight quantizer"."""
    name: str
    """What it is called by."""
    distribution: str
    """The distribution that it is from, with its version."""
    reason: str | None = None
    """Why it wasn't run; None where it was, and the rest is measured."""
    options: dict[str, int] = field(default_factory=dict)
    """Options that aren't the defaults, which don't fit the model's layers."""
    dtype: str | None = None
    """The dtype that it was run in."""
    positions: int | None = None
    """At how many positions predictions were compared."""
    top1_agreement: float | None = None
    """The share of positions at which both have the same likeliest id, 0…1."""
    mean_divergence: float | None = None
    """The mean Kullback–Leibler divergence of the predictions from those of float32 eager, in nats."""
    largest_divergence: float | None = None
    """The largest one, in nats."""
    weight_bytes: int | None = None
    """The bytes of the weights, quantized ones as they are stored."""
    prompt_ids_per_second: float | None = None
    """How many ids of a prompt are read in a second."""
    new_ids_per_second: float | None = None
    """How many ids are generated in a second, of one row."""


@dataclass(frozen=True, slots=True)
class CardFigure:
    """A figure of the embedded model's card, measured again."""

    name: str
    """The name in the card."""
    card: float
    """What the card says, a share in 0…1."""
    count: int
    """How many trials there were."""
    value: float | None
    """The share that was measured now; None where it wasn't."""
    reason: str | None = None
    """Why it wasn't measured; None where it was."""

    @property
    def equals(self) -> bool | None:
        """Whether both are the same to the tenth of a percent that the card states; None where it wasn't measured."""
        return None if self.value is None else f"{self.value:.1%}" == f"{self.card:.1%}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that was measured of a model. A part that wasn't requested is empty."""

    model: str
    """What the model was called."""
    machine: Mapping[str, str]
    """What it was measured on: torch, its threads, the device and the dtype."""
    seconds: float
    """How long all of it took."""
    pictures: tuple[PictureFigures, ...] = ()
    text: tuple[TextFigures, ...] = ()
    captions: tuple[CaptionFigures, ...] = ()
    drawings: tuple[DrawingFigures, ...] = ()
    variants: tuple[VariantFigures, ...] = ()
    card: tuple[CardFigure, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON: an object with a list for each part; NaN and infinities are None."""
        parts = ("pictures", "text", "captions", "drawings", "variants", "card")
        data = {part: [asdict(each) for each in getattr(self, part)] for part in parts}
        for entry, figure in zip(data["card"], self.card, strict=True):
            entry["equals"] = figure.equals
        return {
            "form": FORM,
            "model": self.model,
            "machine": dict(self.machine),
            "seconds": round(self.seconds, 1),
            **_finite(data),
        }


def _finite(value: Any) -> Any:
    """Return JSON with None for numbers that it has no form for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
