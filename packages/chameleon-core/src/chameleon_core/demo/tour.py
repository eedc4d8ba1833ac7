"""The tour: the embedded model draws, names and continues, and what it made is laid out on a page.

Shapes: B pictures, J training pictures, F values of a picture, H W pixels, C channels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL.Image import Image as PILImage

from chameleon_text import Document, Image, Text

from .._files import replacing
from ..optional_packages import emoji_package
from ..pipeline import Chameleon, Prompt, save_document
from . import prompts
from .results import Caption, Drawing, Pair, Report, Story
from .sheet import draw_sheet

if TYPE_CHECKING:
    from chameleon_emoji import Picture

Bytes = npt.NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many pieces of work are done."""

WITHHELD_STYLE = "withheld-style"
WITHHELD_SHAPE = "withheld-shape"
TRAINED = "train"
# How many questions are asked in one batch.
ROWS = 16


def run_demo(folder: Path, *, progress: Progress = lambda what, done, total: None) -> Report:
    """Let the embedded model draw, name and continue, and write the contact sheet, the figures and the document.

    It draws with fixed seeds, so that every run gives the same page. Raises ``MissingPackageError`` where a package of
    the toolkit isn't installed.
    """
    emoji = emoji_package()
    pictures: list[Picture] = emoji.pictures()
    trained = [picture for picture in pictures if picture.split == TRAINED]
    unseen = [picture for picture in pictures if picture.split == WITHHELD_STYLE]
    withheld = {picture.name for picture in pictures if picture.split == WITHHELD_SHAPE}
    shapes = {f"{colour} {shape}" for colour in prompts.COLOURS for shape in prompts.SHAPES}
    pairs = [(colour, shape) for shape in prompts.SHAPES for colour in prompts.COLOURS]
    again = [pair for pair in pairs if " ".join(pair) in withheld]

    num_drawings = (
        len(prompts.KNOWN)
        + len(prompts.REPEATED_SEEDS)
        + len(pairs)
        + len(again) * len(prompts.WITHHELD_SEEDS)
        + len(prompts.STORY)
        + len(prompts.HARD)
    )
    work = _Work(progress, total=num_drawings + len(unseen))
    work.start("loading the model")
    # By its folder: its name would find a folder "emoji" that happens to be here.
    chameleon = Chameleon.from_pretrained(emoji.MODEL)
    artist = _Artist(chameleon, trained, work)
    started = time.perf_counter()

    work.start("drawing what it learned")
    known = [artist.draw(request) for request in prompts.KNOWN]
    repeated = [artist.draw(prompts.REPEATED, seed) for seed in prompts.REPEATED_SEEDS]
    work.start("combining colours and shapes")
    drawn_pairs = [artist.draw_pair(*pair, pair in again) for pair in pairs]
    withheld_pairs = [artist.draw_pair(*pair, True, seed) for pair in again for seed in prompts.WITHHELD_SEEDS]
    work.start(f"naming {len(unseen)} drawings that it never saw")
    captions = name(chameleon, unseen, work)
    work.start("continuing a document")
    story = tell(chameleon, work)
    work.start("drawing what it can't")
    hard = [artist.draw(request) for request in prompts.HARD]
    seconds = time.perf_counter() - started

    report = Report(
        folder=folder,
        transformer_weights=sum(weight.numel() for weight in chameleon.model.parameters()),
        tokenizer_weights=sum(weight.numel() for weight in chameleon.image_tokenizer.state_dict().values()),
        known_things=len({picture.name for picture in trained} - shapes),
        measured=emoji.figures(),
        captions=captions,
        reconstruction_psnr=reconstruction_psnr(chameleon, [picture.image for picture in unseen]),
        known=known,
        repeated=repeated,
        pairs=drawn_pairs,
        withheld_pairs=withheld_pairs,
        story=story,
        hard=hard,
        seconds=seconds,
    )
    write(report)
    return report


def name(chameleon: Chameleon, pictures: Sequence[Picture], work: _Work) -> list[Caption]:
    """Return the likeliest name of each picture."""
    captions: list[Caption] = []
    for start in range(0, len(pictures), ROWS):
        part = pictures[start : start + ROWS]
        questions: list[Prompt] = [[picture.image, prompts.QUESTION] for picture in part]
        answers = chameleon.generate_batch(
            questions, modality="text", template="chat", do_sample=False, max_new_tokens=32
        )
        captions += [Caption(picture, _text(answer)) for picture, answer in zip(part, answers, strict=True)]
        work.did(len(part))
    return captions


def tell(chameleon: Chameleon, work: _Work) -> Story:
    """Let the model draw a picture after each text of a document, with all before it as the prompt."""
    document = Document()
    for text in prompts.STORY:
        document.append(Text(text))
        document += chameleon.generate(document, modality="image", template="chat", seed=prompts.SEED)
        work.did(1)
    last = next(segment for segment in reversed(document) if isinstance(segment, Image))
    return Story(document, prompts.QUESTION, chameleon.caption(last, prompts.QUESTION))


def reconstruction_psnr(chameleon: Chameleon, images: Sequence[PILImage]) -> float:
    """Return the mean PSNR of pictures after encoding and decoding, in decibels."""
    tokenizer = chameleon.image_tokenizer
    again_BHWC = _bytes(tokenizer.decode(tokenizer.encode(images)))
    errors_B = np.square(_bytes(images).astype(np.float32) - again_BHWC).mean(axis=(1, 2, 3))
    return float(np.mean([_psnr(float(error)) for error in errors_B]))


def write(report: Report) -> None:
    """Write the sheet, the figures and the document into the report's folder."""
    save_document(report.story.document, report.folder)
    with replacing(report.folder / "figures.json") as temporary:
        temporary.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(report.folder / "contact-sheet.png") as temporary:
        draw_sheet(report).save(temporary, format="PNG", optimize=True)


class _Work:
    """Counts pieces of work for ``progress``."""

    def __init__(self, progress: Progress, *, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._what = ""

    def start(self, what: str) -> None:
        """Begin another kind of work."""
        self._what = what
        self._progress(what, self._done, self._total)

    def did(self, pieces: int) -> None:
        """Count pieces of work that are done."""
        self._done += pieces
        self._progress(self._what, self._done, self._total)


class _Artist:
    """Draws, and finds the training picture nearest to each drawing."""

    def __init__(self, chameleon: Chameleon, trained: Sequence[Picture], work: _Work) -> None:
        self._chameleon = chameleon
        self._trained = trained
        self._trained_JF = _bytes([picture.image for picture in trained]).reshape(len(trained), -1).astype(np.float32)
        self._work = work

    def draw(self, request: str, seed: int = prompts.SEED) -> Drawing:
        """Draw what a request asks for."""
        # One by one, so that ``chameleon.draw`` with the same seed gives a user the same picture.
        image = self._chameleon.draw(request, seed=seed)
        errors_J = np.square(self._trained_JF - _bytes([image]).reshape(1, -1)).mean(axis=1)
        nearest = int(errors_J.argmin())
        self._work.did(1)
        return Drawing(request, seed, image, self._trained[nearest], _psnr(float(errors_J[nearest])))

    def draw_pair(self, colour: str, shape: str, is_withheld: bool, seed: int = prompts.SEED) -> Pair:
        """Draw a shape in a colour."""
        return Pair(colour, shape, is_withheld, self.draw(prompts.pair(colour, shape), seed))


def _text(document: Document) -> str:
    return "".join(segment.text for segment in document if isinstance(segment, Text)).strip()


def _bytes(images: Sequence[PILImage]) -> Bytes:
    """Return pictures of one size as uint8 [B, H, W, C]."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def _psnr(error: float) -> float:
    """Return the PSNR of a mean squared error of bytes, in decibels."""
    return 10 * float(np.log10(255**2 / max(error, 1e-10)))
