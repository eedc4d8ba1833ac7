"""The figures of the embedded model's card that need no training data, measured as the recipe measures them.

``recipes/emoji/evaluate_transformer.py`` has the same trials, seeds and batches, on the data set that it makes;
here they are on the pictures that ``chameleon_emoji`` ships. What needs more than these is listed with the reason.

Shapes: B pictures, J training pictures, F values of a picture, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..pipeline import Chameleon
from . import embedded_requests as requests
from .picture_quality import Progress
from .references import picture_of, text_of
from .results import CardFigure

if TYPE_CHECKING:
    from chameleon_emoji import Figure, Picture

Bytes = npt.NDArray[np.uint8]
Shares = Iterator[tuple[str, list[bool]]]

ROWS = 32
"""How many prompts are continued together, as for the card: noise depends on the place of a row in its batch."""
DRAWS_OF_A_SHAPE = 12
DRAWS = 200
DRAWS_OF_COMPOSITIONS = 100
COPY_DB = (20, 25)
INK = 48
"""A pixel is drawn if some channel is darker than white by more than this many of 255 levels."""

NO_CLASSIFIER = "judged by a classifier that isn't shipped"
NOT_IN_SHORT = "left out: drawings"


@dataclass
class Subject:
    """The embedded model and its pictures."""

    chameleon: Chameleon
    pictures: Sequence[Picture]
    progress: Progress
    total: int
    """How many prompts there are in all."""
    done: int = 0
    known: list[Picture] = field(init=False)
    """The drawings that the model learned from."""
    known_JHWC: Bytes = field(init=False)

    def __post_init__(self) -> None:
        self.known = [each for each in self.pictures if each.split == "train"]
        self.known_JHWC = stacked([each.image for each in self.known])

    def of_split(self, split: str) -> list[Picture]:
        """Return the pictures of a split."""
        return [each for each in self.pictures if each.split == split]

    def ask(self, pictures: Sequence[Any], question: str) -> list[str]:
        """Return the likeliest answer to a question about each picture."""
        options = {"modality": "text", "do_sample": False, "max_new_tokens": 48}
        prompts = [[picture, question] for picture in pictures]
        return [text_of(document) for document in self._continued(prompts, "naming pictures", lambda number: options)]

    def draw(self, prompts: Sequence[Any], *, seed: int = 0) -> Bytes:
        """Return a drawing for each prompt: uint8 [B, 64, 64, 3]."""
        options = self.chameleon.model.generation_options
        documents = self._continued(
            prompts,
            "drawing",
            lambda number: {"modality": "image", "options": options.replace(seed=1000 * seed + number)},
        )
        return stacked([picture_of(document) for document in documents])

    def _continued(self, prompts: Sequence[Any], what: str, options: Callable[[int], dict[str, Any]]) -> Iterator[Any]:
        for number, start in enumerate(range(0, len(prompts), ROWS)):
            part = list(prompts[start : start + ROWS])
            self.progress(f"the model card: {what}", self.done, self.total)
            yield from self.chameleon.generate_batch(part, template="chat", **options(number))
            self.done += len(part)


def measure_card(
    chameleon: Chameleon,
    pictures: Sequence[Picture],
    card: dict[str, Figure],
    *,
    drawings: bool = True,
    progress: Progress = lambda what, done, total: None,
) -> list[CardFigure]:
    """Measure again what the card says of the transformer, and return every figure of the card.

    ``drawings`` False leaves out what takes most of the time, and gives that reason.
    """
    sections: list[Callable[[Subject], Shares]] = [_captions]
    sections += [_shapes, _known, _grounds, _second_picture, _round_trip] if drawings else []
    subject = Subject(chameleon, pictures, progress, total=_num_prompts(pictures, drawings))
    measured = {name: trials for section in sections for name, trials in section(subject)}
    found = []
    for figure in card.values():
        trials = measured.get(figure.name)
        if trials is None:
            by_classifier = figure.name in _JUDGED
            reason = NO_CLASSIFIER if by_classifier else NOT_IN_SHORT
            found.append(CardFigure(figure.name, figure.value, figure.count, None, reason))
        else:
            found.append(CardFigure(figure.name, figure.value, len(trials), sum(trials) / len(trials)))
    progress("the model card", subject.total, subject.total)
    return found


_JUDGED = frozenset(
    {
        "classifier: held-out pictures (its ceiling)",
        "classifier: learned pictures through the image tokenizer",
        "drawing a known name",
        "drawing a known name in a withheld style",
        "withheld scenes: both parts right",
        "withheld scenes: a part right",
        "withheld grounds: ground and thing right",
        "a second picture after a first: its name",
    }
)


def _num_prompts(pictures: Sequence[Picture], drawings: bool) -> int:
    unseen = sum(each.split == "withheld-style" for each in pictures)
    words = sum(each.split == "withheld-style" and " " not in each.name for each in pictures)
    drawn = 9 * DRAWS_OF_A_SHAPE + 3 * DRAWS + 2 * DRAWS_OF_COMPOSITIONS if drawings else 0
    return 4 * unseen + words + drawn


def _captions(subject: Subject) -> Shares:
    """Names, groups and styles of known things in a style that was withheld."""
    unseen = subject.of_split("withheld-style")
    images = [each.image for each in unseen]
    group_of = {each.name: each.group for each in subject.known}
    answers = [requests.name_in(answer) for answer in subject.ask(images, requests.WHAT)]
    yield "withheld style: exact name", [answer == each.name for answer, each in zip(answers, unseen, strict=True)]
    grouped = [group_of.get(answer) == each.group for answer, each in zip(answers, unseen, strict=True)]
    yield "withheld style: group of the name", grouped
    told = subject.ask(images, requests.WHICH_GROUP)
    right = [answer == each.group for answer, each in zip(told, unseen, strict=True)]
    yield "withheld style: group, when asked for it", right
    words = [each for each in unseen if " " not in each.name]
    told = subject.ask([each.image for each in words], requests.ONE_WORD)
    yield "withheld style: named in one word", [answer == each.name for answer, each in zip(told, words, strict=True)]
    told = subject.ask(images, requests.WITH_STYLE)
    right = [f"a {each.style} drawing of" in answer for answer, each in zip(told, unseen, strict=True)]
    yield "withheld style: style right", right
    seen = _sample(subject.known, len(unseen))
    answers = [requests.name_in(answer) for answer in subject.ask([each.image for each in seen], requests.WHAT)]
    yield "learned pictures: exact name", [answer == each.name for answer, each in zip(answers, seen, strict=True)]


def _shapes(subject: Subject) -> Shares:
    """Drawings of the pairs of colour and shape that were withheld in every style.

    The hue is right if, of the seven colours in which the style has this shape, the requested one is nearest. The shape
    is right if the drawing and the outline of the shape overlap by more than 0.7 of their union.
    """
    real = {(each.style, each.name): np.asarray(each.image) for each in subject.pictures}
    wanted = [(style, name) for name in requests.WITHHELD_SHAPES for style in requests.STYLES] * DRAWS_OF_A_SHAPE
    drawn_BHWC = subject.draw([f"a {style} drawing of a {name}" for style, name in wanted])
    hues, outlines, nearest = [], [], []
    for (style, name), drawn_HWC in zip(wanted, drawn_BHWC, strict=True):
        colour, shape = name.split()
        seen = _median_colour(drawn_HWC, _ink(drawn_HWC))
        inks = {each: real[style, f"{each} {shape}"] for each in requests.COLOURS}
        distances = {
            each: float(np.abs(seen - _median_colour(picture_HWC, _outline(picture_HWC))).sum())
            for each, picture_HWC in inks.items()
        }
        hues.append(min(distances, key=distances.__getitem__) == colour)
        # Outlines of one shape are the same in all colours: a learned one is taken.
        other = "red" if colour != "red" else "yellow"
        overlaps = {
            each: _overlap(_ink(drawn_HWC), _outline(real[style, f"{other} {each}"])) for each in requests.SHAPES
        }
        outlines.append(overlaps[shape] > 0.7)
        nearest.append(max(overlaps, key=overlaps.__getitem__) == shape)
    kind = "withheld colour and shape"
    yield f"{kind}: hue right", hues
    yield f"{kind}: shape right (IoU above 0.7)", outlines
    yield f"{kind}: both right", [hue and outline for hue, outline in zip(hues, outlines, strict=True)]
    yield f"{kind}: nearest to the shape of the three", nearest


def _known(subject: Subject) -> Shares:
    """Drawings of known names: whether they copy training pictures."""
    drawn_BHWC = subject.draw([requests.request(each.style, each.name) for each in _sample(subject.known, DRAWS)])
    nearest = nearest_indices(drawn_BHWC, subject.known_JHWC)
    near = [_psnr(one, subject.known_JHWC[other]) for one, other in zip(drawn_BHWC, nearest, strict=True)]
    for limit in COPY_DB:
        yield f"drawings within {limit} dB of a training picture", [value > limit for value in near]


def _grounds(subject: Subject) -> Shares:
    """Things on grounds that were withheld: the colour of the ground."""
    random = np.random.default_rng(0)
    records = [each for each in subject.known if each.name in requests.COMPOSED]
    drawings = {(each.style, each.name) for each in records}
    colours = [colour for colour in requests.GROUNDS if colour != "white"]
    pairs = 0
    grounds: list[tuple[Picture, str]] = []
    while len(grounds) < DRAWS_OF_COMPOSITIONS or pairs < DRAWS_OF_COMPOSITIONS:
        first, second = (records[int(index)] for index in random.integers(len(records), size=2))
        # The recipe draws withheld pairs, which need the classifier, from the same numbers.
        paired = first.name != second.name and (first.style, second.name) in drawings
        pairs += paired and requests.is_withheld(first.name, second.name)
        colour = str(random.choice(colours))
        if len(grounds) < DRAWS_OF_COMPOSITIONS and requests.is_withheld(first.name, f"{colour} ground"):
            grounds.append((first, colour))
    drawn_BHWC = subject.draw([requests.request(each.style, each.name, colour) for each, colour in grounds])
    painted = []
    for (_, colour), drawn_HWC in zip(grounds, drawn_BHWC, strict=True):
        corners = np.median(drawn_HWC[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float), axis=0)
        distances = {each: float(np.abs(corners - levels).sum()) for each, levels in requests.GROUNDS.items()}
        painted.append(min(distances, key=distances.__getitem__) == colour)
    yield "withheld grounds: ground right", painted


def _second_picture(subject: Subject) -> Shares:
    """The picture that follows a text, a learned picture and a text: whether it has the first one's style."""
    random = np.random.default_rng(0)
    prompts: list[Any] = []
    styles: list[str] = []
    while len(prompts) < DRAWS_OF_COMPOSITIONS:
        one, other = (subject.known[int(index)] for index in random.integers(len(subject.known), size=2))
        if one.style == other.style and one.name != other.name and not requests.is_withheld(one.name, other.name):
            before, after = requests.with_article(one.name), requests.with_article(other.name)
            prompts.append([f"here is {before}", one.image, f" and {after}"])
            styles.append(one.style)
    found = nearest_indices(subject.draw(prompts, seed=3), subject.known_JHWC)
    right = [subject.known[index].style == style for index, style in zip(found, styles, strict=True)]
    yield "a second picture after a first: its style", right


def _round_trip(subject: Subject) -> Shares:
    """Text to picture to text: the model names its own drawings, which it reads as pixels."""
    known = _sample(subject.known, DRAWS, seed=1)
    drawn_BHWC = subject.draw([requests.request(each.style, each.name) for each in known], seed=2)
    answers = [requests.name_in(answer) for answer in subject.ask(list(drawn_BHWC), requests.WHAT)]
    yield "text to picture to text", [answer == each.name for answer, each in zip(answers, known, strict=True)]


def _sample(pictures: Sequence[Picture], count: int, *, seed: int = 0) -> list[Picture]:
    """Return ``count`` of the pictures, chosen by a seed, in their order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pictures))[:count])
    return [pictures[int(index)] for index in chosen]


def stacked(pictures: Sequence[Any]) -> Bytes:
    """Return pictures of one size as uint8 [B, H, W, 3]."""
    return np.stack([np.asarray(each.convert("RGB")) for each in pictures])


def nearest_indices(pictures_BHWC: Bytes, trained_JHWC: Bytes) -> npt.NDArray[np.int64]:
    """Return for each picture the index of the training picture with the least mean squared difference."""
    trained_JF = trained_JHWC.reshape(len(trained_JHWC), -1).astype(np.float32)
    norms_J = np.einsum("jf,jf->j", trained_JF, trained_JF)
    pictures_BF = pictures_BHWC.reshape(len(pictures_BHWC), -1).astype(np.float32)
    indices_B: npt.NDArray[np.int64] = (norms_J - 2 * pictures_BF @ trained_JF.T).argmin(axis=1)
    return indices_B


def _psnr(first_HWC: Bytes, second_HWC: Bytes) -> float:
    error = float(np.mean((first_HWC.astype(np.float64) - second_HWC) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _ink(picture_HWC: Bytes) -> npt.NDArray[np.bool_]:
    """Return where something is drawn on white: bool [H, W]."""
    drawn_HW: npt.NDArray[np.bool_] = picture_HWC.min(axis=2) < 255 - INK
    return drawn_HW


def _outline(picture_HWC: Bytes) -> npt.NDArray[np.bool_]:
    """Return where a shape of one colour on white covers more than half of a pixel: bool [H, W]."""
    darkest = 255.0 - picture_HWC.min(axis=2)
    inside = float(np.median(darkest[darkest > INK]))
    covered_HW: npt.NDArray[np.bool_] = darkest > inside * 128 / 255
    return covered_HW


def _median_colour(picture_HWC: Bytes, where_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the median of each channel over a part of a picture; white if the part is empty."""
    if not where_HW.any():
        return np.full(3, 255.0)
    median_C: npt.NDArray[np.float64] = np.median(picture_HWC[where_HW].astype(np.float64), axis=0)
    return median_C


def _overlap(first_HW: npt.NDArray[np.bool_], second_HW: npt.NDArray[np.bool_]) -> float:
    """Return the intersection over union; 0 if both are empty."""
    union = np.count_nonzero(first_HW | second_HW)
    return float(np.count_nonzero(first_HW & second_HW) / union) if union else 0.0
