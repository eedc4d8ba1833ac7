"""The tour: the embedded model captions, draws and goes on with a document, and what it made is laid out on a page.

Shapes: N pictures, H W pixels, C channels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL.Image import Image as PILImage

from chameleon_text import Document, Image, Text

from .._files import replacing
from ..optional_packages import emoji_package
from ..pipeline import Chameleon, Prompt, save_document
from .sheet import draw_sheet

if TYPE_CHECKING:
    from chameleon_emoji import Picture

Bytes = npt.NDArray[np.uint8]

SEED = 0
ROWS = 32
QUESTION = "what is this?"
WITHHELD_STYLE = "withheld-style"

REQUESTS = (
    "a red apple",
    "a twemoji drawing of a whale",
    "a rocket",
    "a noto drawing of a fox",
    "a green heart",
    "a twemoji drawing of a blue square",
)
STORY = ("here is a lemon", " and a rocket")


@dataclass(frozen=True, slots=True)
class Caption:
    """What the model says of a drawing that it never saw."""

    picture: Picture
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether the answer is the name, whatever its article."""
        return self.answer.removeprefix("an ").removeprefix("a ") == self.picture.name


@dataclass(frozen=True, slots=True)
class Drawing:
    """What the model drew when asked for it."""

    request: str
    image: PILImage
    nearest: Picture
    """The drawing that it learned from and that is nearest in pixels."""
    psnr: float
    """How near, in decibels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the tour made."""

    folder: Path
    parameters: int
    """The transformer's weights, counted."""
    captions: Sequence[Caption]
    psnr: float
    """Of the captioned drawings through the image tokenizer, in decibels: the mean."""
    drawings: Sequence[Drawing]
    prompt: Document
    continuation: Document
    seconds: float
    """From the first question to the last picture."""
    ids_a_second: float
    """While drawing the requests, all in one batch."""

    def figures(self) -> list[tuple[str, str]]:
        """Figures and what they mean."""
        right = sum(caption.is_right for caption in self.captions)
        return [
            (f"{right} of {len(self.captions)}", "drawings that the model never saw are named exactly"),
            (f"{self.psnr:.1f} dB", "the same drawings through the image tokenizer: 64 codes, and back (PSNR)"),
            (f"{max(drawing.psnr for drawing in self.drawings):.1f} dB", "the drawn picture nearest to a learned one"),
            (f"{self.ids_a_second:,.0f} ids/s", f"for {len(self.drawings)} pictures at once"),
            (f"{self.seconds:.0f} s", "for everything on the sheet"),
        ]

    def files(self) -> list[tuple[Path, str]]:
        """What lies where."""
        return [
            (self.folder / "contact-sheet.png", "everything on one page"),
            (self.folder / "figures.json", "the figures, and every caption beside its name"),
            (self.folder / "document.json", "the continued document (document.md shows it)"),
        ]


def run_demo(folder: Path, *, say: Callable[[str], None] = lambda step: None) -> Report:
    """Let the embedded model caption, draw and continue; ``say`` hears each step.

    Raises ``MissingPackageError`` where a package of the toolkit isn't installed.
    """
    emoji = emoji_package()
    pictures = emoji.pictures()
    say("loading the model")
    # By its folder: its name would find a folder "emoji" that happens to be here.
    chameleon = Chameleon.from_pretrained(emoji.MODEL)
    started = time.perf_counter()
    withheld = [picture for picture in pictures if picture.split == WITHHELD_STYLE]
    say(f"naming {len(withheld)} drawings that it never saw")
    captions = caption(chameleon, withheld)
    say(f"drawing {len(REQUESTS)} requests")
    drawn, ids_a_second = draw(chameleon, REQUESTS)
    say("going on with a document")
    lemon = next(picture for picture in pictures if picture.name == "lemon")
    prompt = Document([Text(STORY[0]), Image(lemon.image), Text(STORY[1])])
    continuation = chameleon.generate(prompt, modality="image", template="chat", seed=SEED)
    seconds = time.perf_counter() - started
    say("looking for the nearest learned drawings")
    report = Report(
        folder=folder,
        parameters=sum(weight.numel() for weight in chameleon.model.parameters()),
        captions=captions,
        psnr=through_codes(chameleon, [picture.image for picture in withheld]),
        drawings=beside_nearest(drawn, [picture for picture in pictures if picture.split == "train"]),
        prompt=prompt,
        continuation=continuation,
        seconds=seconds,
        ids_a_second=ids_a_second,
    )
    say("laying out the contact sheet")
    write(report)
    return report


def caption(chameleon: Chameleon, pictures: Sequence[Picture]) -> list[Caption]:
    """The likeliest answer to what each picture is."""
    captions: list[Caption] = []
    for start in range(0, len(pictures), ROWS):
        part = pictures[start : start + ROWS]
        prompts: list[Prompt] = [[picture.image, QUESTION] for picture in part]
        answers = chameleon.generate_batch(
            prompts, modality="text", template="chat", do_sample=False, max_new_tokens=32
        )
        captions += [Caption(picture, _text(answer)) for picture, answer in zip(part, answers, strict=True)]
    return captions


def draw(chameleon: Chameleon, requests: Sequence[str]) -> tuple[list[tuple[str, PILImage]], float]:
    """A picture of each request, and how many ids a second it took."""
    started = time.perf_counter()
    documents = chameleon.generate_batch(requests, modality="image", template="chat", seed=SEED)
    speed = len(requests) * (chameleon.layout.tokens_per_image + 2) / (time.perf_counter() - started)
    return [(request, _picture(document)) for request, document in zip(requests, documents, strict=True)], speed


def beside_nearest(drawn: Sequence[tuple[str, PILImage]], learned: Sequence[Picture]) -> list[Drawing]:
    """Each drawing beside the learned one that is nearest in pixels."""
    learned_NHWC = _bytes([picture.image for picture in learned])
    drawings = []
    for request, image in drawn:
        errors_N = np.square(learned_NHWC.astype(np.float32) - _bytes([image])).mean(axis=(1, 2, 3))
        nearest = int(errors_N.argmin())
        drawings.append(Drawing(request, image, learned[nearest], _psnr(float(errors_N[nearest]))))
    return drawings


def through_codes(chameleon: Chameleon, images: Sequence[PILImage]) -> float:
    """The mean PSNR of pictures that became codes and pictures again."""
    tokenizer = chameleon.image_tokenizer
    again_NHWC = _bytes(tokenizer.decode(tokenizer.encode(images)))
    errors_N = np.square(_bytes(images).astype(np.float32) - again_NHWC).mean(axis=(1, 2, 3))
    return float(np.mean([_psnr(float(error)) for error in errors_N]))


def write(report: Report) -> None:
    """The sheet, the figures and the document, into the report's folder."""
    save_document([*report.prompt, *report.continuation], report.folder)
    figures = {
        "figures": [{"value": value, "meaning": meaning} for value, meaning in report.figures()],
        "captions": [
            {"name": each.picture.name, "style": each.picture.style, "answer": each.answer, "right": each.is_right}
            for each in report.captions
        ],
        "drawings": [
            {"request": each.request, "nearest": each.nearest.name, "psnr": round(each.psnr, 2)}
            for each in report.drawings
        ],
    }
    with replacing(report.folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(report.folder / "contact-sheet.png") as temporary:
        draw_sheet(report).save(temporary, format="PNG")


def _text(document: Document) -> str:
    return "".join(segment.text for segment in document if isinstance(segment, Text)).strip()


def _picture(document: Document) -> PILImage:
    (image,) = (segment.image for segment in document if isinstance(segment, Image))
    return image


def _bytes(images: Sequence[PILImage]) -> Bytes:
    """Pictures of one size: uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def _psnr(error: float) -> float:
    """Of a mean squared error of bytes, in decibels."""
    return 10 * float(np.log10(255**2 / max(error, 1e-10)))
