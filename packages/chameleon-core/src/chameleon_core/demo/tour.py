"""The tour: photographs and text through every layer, with what was seen on the way.

Shapes: B pictures, N codes a picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image as PILImage

from chameleon_text import Document, Image, Text
from chameleon_vq import ImageTokenizer

from .._files import replacing
from ..documents import save_document
from ..generation import GenerationOptions
from ..pipeline import Chameleon
from .model import make_chameleon
from .photos import Photograph, load_photographs
from .sheet import draw_sheet

SEED = 3

# Room for text beside the pictures of the generated document.
TEXT_IDS = 120
IMAGES = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """A photograph that became codes, and a picture again."""

    photograph: Photograph
    codes: tuple[int, ...]
    latent_size: tuple[int, int]
    drawn: PILImage
    psnr: float
    """In decibels, against the pixels that the image tokenizer saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the tour made."""

    folder: Path
    readings: Sequence[Reading]
    num_document_ids: int
    """How many ids the document of both photographs took."""
    prompt: Document
    generated: Document
    generated_seconds: float
    guided_prompt: Document
    guided: Image
    """One picture, with its codes."""
    guided_seconds: float

    @property
    def num_codes(self) -> int:
        """How many codes a picture takes."""
        return len(self.readings[0].codes)

    @property
    def guided_speed(self) -> float:
        """Ids a second, of which the picture has its codes, a beginning and an end."""
        return (self.num_codes + 2) / self.guided_seconds

    def figures(self) -> list[tuple[str, str]]:
        """Figures and what they mean."""
        psnr = " and ".join(f"{reading.psnr:.1f}" for reading in self.readings)
        pictures = _pictures(self.generated)
        return [
            (f"{self.num_codes:,} codes", "for a picture; drawn and read again they are the same"),
            (f"{psnr} dB", "the photographs drawn from their codes (PSNR); codes here are colours, not learned"),
            (f"{self.num_document_ids:,} ids", "for text and both photographs; the same document came back"),
            (
                f"{len(pictures)} drawn",
                f"pictures in the generated document, which took {self.generated_seconds:.1f} s",
            ),
            (f"{self.guided_speed:,.0f} ids/s", "for a picture that is guided, which runs three contexts at once"),
        ]

    def files(self) -> list[tuple[Path, str]]:
        """What lies where."""
        return [
            (self.folder / "contact-sheet.png", "everything on one page"),
            (self.folder / "document.json", "the generated document (document.md shows it)"),
            (self.folder / "checkpoint", "the model: try `chameleon generate` with it"),
        ]


def run_demo(folder: Path, *, resolution: int = 64, say: Callable[[str], None] = lambda step: None) -> Report:
    """Write a small model into a folder, load it, and take photographs and text through it; ``say`` hears each step."""
    say("making a model and saving it")
    # Four pictures, of a quarter as many codes as pixels each, and text.
    context_length = resolution**2 + 512
    make_chameleon(resolution=resolution, context_length=context_length).save_pretrained(folder / "checkpoint")
    say("loading it")
    chameleon = Chameleon.from_pretrained(folder / "checkpoint")
    photographs = load_photographs()
    say("photographs to codes and back")
    readings = read_photographs(ImageTokenizer.from_pretrained(folder / "checkpoint"), photographs)
    say("text and photographs to ids and back")
    num_ids = _check_document(chameleon, readings)
    cat = Image(photographs[0].image)
    say("generating a document")
    prompt: Document = [Text("A chameleon looks at a cat: "), cat, Text(" and then ")]
    num_new = IMAGES * (chameleon.layout.tokens_per_image + 2) + TEXT_IDS
    started = time.perf_counter()
    generated = chameleon.generate(
        prompt, modality="interleaved", max_images=IMAGES, max_new_tokens=num_new, do_sample=True, seed=SEED
    )
    generated_seconds = time.perf_counter() - started
    say("generating a guided picture")
    guided_prompt: Document = [Text("The cat "), cat, Text(" in red: ")]
    started = time.perf_counter()
    (guided,) = _pictures(
        chameleon.generate(guided_prompt, modality="image", options=GenerationOptions.published(), seed=SEED)
    )
    guided_seconds = time.perf_counter() - started
    report = Report(
        folder=folder,
        readings=readings,
        num_document_ids=num_ids,
        prompt=prompt,
        generated=generated,
        generated_seconds=generated_seconds,
        guided_prompt=guided_prompt,
        guided=guided,
        guided_seconds=guided_seconds,
    )
    say("laying out the contact sheet")
    save_document(generated, folder)
    with replacing(folder / "contact-sheet.png") as temporary:
        draw_sheet(report).save(temporary, format="PNG")
    return report


def read_photographs(image_tokenizer: ImageTokenizer, photographs: Sequence[Photograph]) -> list[Reading]:
    """Photographs to codes and back. Raises ``RuntimeError`` where what was drawn reads as other codes."""
    images = [photograph.image for photograph in photographs]
    codes_BN = image_tokenizer.encode(images)
    drawn = image_tokenizer.decode(codes_BN)
    if not bool((image_tokenizer.encode(drawn) == codes_BN).all()):
        raise RuntimeError("the pictures drawn from codes read as other codes.")
    seen = image_tokenizer.image_processor.preprocess(images, "np", do_rescale=False, do_normalize=False)
    return [
        Reading(
            photograph,
            tuple(codes),
            image_tokenizer.latent_size,
            picture,
            _psnr(pixels_CHW.transpose(1, 2, 0), picture),
        )
        for photograph, codes, picture, pixels_CHW in zip(
            photographs, codes_BN.tolist(), drawn, seen["pixel_values"], strict=True
        )
    ]


def _check_document(chameleon: Chameleon, readings: Sequence[Reading]) -> int:
    """Text and pictures to ids and back; how many ids. Raises ``RuntimeError`` where another document comes back."""
    cat, coffee = (Image(codes=reading.codes) for reading in readings)
    document = [
        Text("A cat, "),
        cat,
        Text(" a cup of coffee, "),
        coffee,
        Text(" and no way to make <s> or </s> special."),
    ]
    ids = chameleon.processor.encode(document, template="completion")
    if chameleon.processor.decode_document(ids) != document:
        raise RuntimeError("another document came back from the ids.")
    return len(ids)


def _pictures(document: Document) -> list[Image]:
    return [segment for segment in document if isinstance(segment, Image)]


def _psnr(pixels_HWC: np.ndarray, picture: PILImage) -> float:
    difference_HWC = pixels_HWC.astype(np.float64) - np.asarray(picture)
    return float(10 * np.log10(255**2 / np.square(difference_HWC).mean()))
