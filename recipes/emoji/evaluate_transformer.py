"""Measure the trained model on what it never learned from: ``python -m recipes.emoji.evaluate_transformer``.

Prints a table and writes, into its folder, ``transformer.json`` (the figures, each beside its baseline) and
``transformer.png`` (drawings above the nearest training picture). Everything goes through ``Chameleon``, as it does for
a user, and is drawn from fixed seeds.

Shapes: N pictures, H W pixels, C channels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from chameleon_core import Chameleon, GenerationOptions
from chameleon_text import Image as ImageSegment
from chameleon_text import Text

from . import prompts
from .augment import GROUNDS
from .classifier import FOLDER, Judge
from .compositions import Painter, learned, only_named
from .finetune import FINETUNED
from .measures import ink, median_colour, nearest_indices, overlap, psnr_of
from .pictures import DATA, SIDE, Picture, PictureSet, replacing
from .splits import COLOURS, SHAPES, WITHHELD_SHAPES, scene_is_withheld
from .things import COMPOSED

RESULTS = Path("build/emoji/evaluation")
ROWS = 32

# How the embedded model draws unless asked for otherwise.
DRAWING = GenerationOptions(do_sample=True, temperature=0.4, top_p=0.9, guidance_text=1.5)
COPY_DB = (20.0, 25.0)
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Figure:
    """One figure: a share of ``count`` trials in 0…1, beside what it is to be held against."""

    name: str
    value: float
    count: int
    baseline: float | None = None
    against: str = ""
    """What the baseline is."""


@dataclass(frozen=True)
class Subject:
    """What is measured, and by what."""

    chameleon: Chameleon
    judge: Judge
    pictures: PictureSet
    options: GenerationOptions
    """How pictures are drawn; captions are the likeliest ids."""

    @property
    def known(self) -> PictureSet:
        """What was learned from."""
        return learned(self.pictures)

    def ask(self, pictures: Sequence[Any], question: str) -> list[str]:
        """The likeliest answers to a question about pictures."""
        answers: list[str] = []
        for part in _parts(pictures, f"asking {question!r}"):
            rows = [[picture, question] for picture in part]
            documents = self.chameleon.generate_batch(
                rows, modality="text", template="chat", do_sample=False, max_new_tokens=48
            )
            answers += [
                "".join(segment.text for segment in document if isinstance(segment, Text)) for document in documents
            ]
        return answers

    def draw(self, requests: Sequence[Any], *, seed: int = 0) -> Bytes:
        """A picture of each request: uint8 [N, 64, 64, 3]."""
        drawn = []
        for number, part in enumerate(_parts(requests, "drawing")):
            options = self.options.replace(seed=1000 * seed + number)
            for document in self.chameleon.generate_batch(
                list(part), modality="image", template="chat", options=options
            ):
                (picture,) = (segment.image for segment in document if isinstance(segment, ImageSegment))
                drawn.append(np.asarray(picture.convert("RGB")))
        return np.stack(drawn) if drawn else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def captions(subject: Subject, *, limit: int | None = None) -> Iterator[Figure]:
    """Known things in a style that was withheld: the name, and the group."""
    known = subject.known
    group_of = {record.name: record.group for record in known.records}
    unseen = _some(
        subject.pictures.where(lambda picture: picture.split == "withheld-style" and picture.name in group_of), limit
    )
    white_NHWC = unseen.on_white()
    names = [record.name for record in unseen.records]
    groups = [record.group for record in unseen.records]
    # All drawings whose names were learned, by whomever.
    named = only_named(subject.pictures)
    found = nearest_indices(white_NHWC, np.concatenate([known.on_white(), named.on_white()]))
    near = [[*known.records, *named.records][index] for index in found]
    near_exact = _share([record.name == name for record, name in zip(near, names, strict=True)])
    near_group = _share([record.group == group for record, group in zip(near, groups, strict=True)])
    against = "nearest training picture"
    answers = [prompts.name_in(answer) for answer in subject.ask(list(white_NHWC), prompts.WHAT)]
    exact = _share([answer == name for answer, name in zip(answers, names, strict=True)])
    yield Figure("withheld style: exact name", exact, len(names), near_exact, against)
    grouped = _share([group_of.get(answer) == group for answer, group in zip(answers, groups, strict=True)])
    yield Figure("withheld style: group of the name", grouped, len(names), near_group, against)
    told = subject.ask(list(white_NHWC), prompts.WHICH_GROUP)
    right = [prompts.GROUPS.get(group or 0) == answer for answer, group in zip(told, groups, strict=True)]
    yield Figure("withheld style: group, when asked for it", _share(right), len(names), near_group, against)
    words = [index for index, name in enumerate(names) if " " not in name]
    told = subject.ask([white_NHWC[index] for index in words], prompts.ONE_WORD)
    right = [answer == names[index] for answer, index in zip(told, words, strict=True)]
    near_word = _share([near[index].name == names[index] for index in words])
    yield Figure("withheld style: named in one word", _share(right), len(words), near_word, against)
    style = subject.ask(list(white_NHWC), prompts.WITH_STYLE)
    right = [f"a {record.style} drawing of" in answer for answer, record in zip(style, unseen.records, strict=True)]
    near_style = _share([record.style == other.style for record, other in zip(near, unseen.records, strict=True)])
    yield Figure("withheld style: style right", _share(right), len(names), near_style, against)
    seen = _some(known, limit or len(unseen))
    answers = [prompts.name_in(answer) for answer in subject.ask(list(seen.on_white()), prompts.WHAT)]
    exact = _share([answer == record.name for answer, record in zip(answers, seen.records, strict=True)])
    yield Figure("learned pictures: exact name", exact, len(seen))


def shapes(subject: Subject, *, draws: int = 12) -> Iterator[Figure]:
    """Plain shapes, the pairs of colour and shape that were withheld in every style, and pairs that weren't.

    Right in hue: of the seven colours in which the style has this shape, the asked one is nearest to the drawing's.
    Right in shape: the drawing's ink and the outline of a learned colour of the shape overlap by more than 0.7, which
    a circle's does with a square's, too; and, in a figure of its own, by more than with the two other shapes' outlines.
    """
    real = {(record.style, record.name): index for index, record in enumerate(subject.pictures.records)}
    learned_pairs = [f"{COLOURS[(index + 4) % 7]} {shape}" for index, shape in enumerate(SHAPES)]
    results = {}
    for kind, names in (("withheld", sorted(WITHHELD_SHAPES)), ("learned", learned_pairs)):
        wanted = [(style, name) for name in names for style in prompts.STYLES if (style, name) in real] * draws
        drawn_NHWC = subject.draw([f"a {style} drawing of a {name}" for style, name in wanted])
        hues, outlines, nearest = [], [], []
        for (style, name), drawn_HWC in zip(wanted, drawn_NHWC, strict=True):
            colour, shape = name.split()
            inks = {each: subject.pictures.rgba_NHWC[real[style, f"{each} {shape}"]] for each in COLOURS}
            seen = median_colour(drawn_HWC, ink(drawn_HWC))
            distances = {
                each: float(np.abs(seen - median_colour(rgba_HWC[..., :3], rgba_HWC[..., 3] > 128)).sum())
                for each, rgba_HWC in inks.items()
            }
            hues.append(min(distances, key=distances.__getitem__) == colour)
            # Outlines of one shape are alike in all colours: a learned one, so that nothing withheld is needed.
            other = "red" if colour != "red" else "yellow"
            overlaps = {
                each: overlap(ink(drawn_HWC), subject.pictures.rgba_NHWC[real[style, f"{other} {each}"]][..., 3] > 128)
                for each in SHAPES
            }
            outlines.append(overlaps[shape] > 0.7)
            nearest.append(max(overlaps, key=overlaps.__getitem__) == shape)
        both = [hue and outline for hue, outline in zip(hues, outlines, strict=True)]
        results[kind] = hues, outlines, both, nearest
    titles = ("hue right", "shape right (IoU above 0.7)", "both right", "nearest to the shape of the three")
    for place, what in enumerate(titles):
        measured, other = results["withheld"][place], results["learned"][place]
        against = "the same of learned pairs"
        yield Figure(f"withheld colour and shape: {what}", _share(measured), len(measured), _share(other), against)


def names(subject: Subject, *, draws: int = 200) -> Iterator[Figure]:
    """Drawings of known names as the classifier names them, and whether they are copies of training pictures."""
    known = _some(subject.known, draws)
    said = [record.name for record in known.records]
    drawn_NHWC = subject.draw([_request(record) for record in known.records])
    unseen = subject.pictures.where(
        lambda picture: picture.split == "withheld-style" and picture.name in subject.judge.names
    )
    ceiling = _agreement(subject.judge.name(unseen.on_white()), [record.name for record in unseen.records])
    tokenizer = subject.chameleon.image_tokenizer
    again_NHWC = np.stack([np.asarray(image) for image in tokenizer.decode(tokenizer.encode(list(known.on_white())))])
    through = _agreement(subject.judge.name(again_NHWC), said)
    yield Figure("classifier: held-out pictures (its ceiling)", ceiling, len(unseen))
    yield Figure("classifier: learned pictures through the image tokenizer", through, len(known))
    named = _agreement(subject.judge.name(drawn_NHWC), said)
    yield Figure("drawing a known name", named, len(said), ceiling, "the classifier on held-out pictures")
    requests = [_request(record) for record in unseen.records]
    named = _agreement(subject.judge.name(subject.draw(requests, seed=1)), [record.name for record in unseen.records])
    yield Figure("drawing a known name in a withheld style", named, len(unseen), ceiling, "the same")
    trained_NHWC = subject.known.on_white()
    nearest_NHWC = trained_NHWC[nearest_indices(drawn_NHWC, trained_NHWC)]
    near = [psnr_of(one, other) for one, other in zip(drawn_NHWC, nearest_NHWC, strict=True)]
    copied = [psnr_of(one, other) for one, other in zip(again_NHWC, known.on_white(), strict=True)]
    for limit in COPY_DB:
        share = _share([value > limit for value in near])
        best = _share([value > limit for value in copied])
        title = f"drawings within {limit:.0f} dB of a training picture"
        yield Figure(title, share, len(near), best, "training pictures through the image tokenizer")


def scenes(subject: Subject, *, draws: int = 100) -> Iterator[Figure]:
    """Withheld pairs of things, and withheld grounds; each part as the classifier names it, cut out and enlarged."""
    random = np.random.default_rng(0)
    records = [record for record in subject.known.records if record.name in COMPOSED]
    drawings = {(record.style, record.name) for record in records}
    pairs: list[tuple[Picture, Picture]] = []
    grounds: list[tuple[Picture, str]] = []
    colours = [colour for colour in GROUNDS if colour != "white"]
    for _ in range(1000 * draws):
        first, second = (records[int(index)] for index in random.integers(len(records), size=2))
        paired = first.name != second.name and (first.style, second.name) in drawings
        if len(pairs) < draws and paired and scene_is_withheld(first.name, second.name):
            pairs.append((first, second))
        colour = str(random.choice(colours))
        if len(grounds) < draws and scene_is_withheld(first.name, f"{colour} ground"):
            grounds.append((first, colour))
        if len(pairs) == len(grounds) == draws:
            break
    painter = Painter(subject.known)
    shown = [
        prompts.Composition(first.style, first.name, arrangement="left of", other=second.name)
        for first, second in pairs
    ]
    drawn, real = (
        (
            _guessed(subject, scenes_NHWC[:, 16:48, :32], [first.name for first, _ in pairs]),
            _guessed(subject, scenes_NHWC[:, 16:48, 32:], [second.name for _, second in pairs]),
        )
        for scenes_NHWC in (subject.draw([each.caption for each in shown]), _painted(painter, shown))
    )
    both, real_both = ([one and other for one, other in zip(*sides, strict=True)] for sides in (drawn, real))
    against = "the same scenes, put together from learned pictures"
    yield Figure("withheld scenes: both parts right", _share(both), len(both), _share(real_both), against)
    parts, real_parts = ([*left, *right] for left, right in (drawn, real))
    yield Figure("withheld scenes: a part right", _share(parts), len(parts), _share(real_parts), against)
    shown = [prompts.Composition(record.style, record.name, ground=colour) for record, colour in grounds]
    drawn_NHWC = subject.draw([each.caption for each in shown])
    painted = []
    for (_, colour), drawn_HWC in zip(grounds, drawn_NHWC, strict=True):
        corners = np.median(drawn_HWC[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float), axis=0)
        painted.append(min(GROUNDS, key=lambda each: float(np.abs(corners - GROUNDS[each]).sum())) == colour)
    wanted = [record.name for record, _ in grounds]
    thing = _agreement_each(subject.judge.name(drawn_NHWC), wanted)
    both = [one and other for one, other in zip(painted, thing, strict=True)]
    yield Figure("withheld grounds: ground right", _share(painted), len(painted), 1 / len(GROUNDS), "chance")
    real_thing = _agreement(subject.judge.name(_painted(painter, shown)), wanted)
    against = "the thing, on the same grounds under learned pictures"
    yield Figure("withheld grounds: ground and thing right", _share(both), len(both), real_thing, against)


def interleaved(subject: Subject, *, draws: int = 100) -> Iterator[Figure]:
    """A text, a learned picture, a text: the picture that follows, as the classifier names it."""
    random = np.random.default_rng(0)
    known = subject.known
    white_NHWC = known.on_white()
    requests, wanted = [], []
    while len(wanted) < draws:
        first, second = (int(index) for index in random.integers(len(known), size=2))
        one, other = known.records[first], known.records[second]
        if one.style == other.style and one.name != other.name and not scene_is_withheld(one.name, other.name):
            before, after = f"here is {prompts.with_article(one.name)}", f" and {prompts.with_article(other.name)}"
            requests.append([before, white_NHWC[first], after])
            wanted.append(other)
    drawn_NHWC = subject.draw(requests, seed=3)
    named = _agreement(subject.judge.name(drawn_NHWC), [record.name for record in wanted])
    yield Figure("a second picture after a first: its name", named, len(wanted))
    found = nearest_indices(drawn_NHWC, white_NHWC)
    styles = [known.records[index].style == record.style for index, record in zip(found, wanted, strict=True)]
    by_chance = 1 / len(prompts.STYLES)
    yield Figure("a second picture after a first: its style", _share(styles), len(wanted), by_chance, "chance")


def round_trip(subject: Subject, *, draws: int = 200) -> Iterator[Figure]:
    """Text to picture to text: the model names its own drawings, which it gets as pixels."""
    known = _some(subject.known, draws, seed=1)
    drawn_NHWC = subject.draw([_request(record) for record in known.records], seed=2)
    answers = [prompts.name_in(answer) for answer in subject.ask(list(drawn_NHWC), prompts.WHAT)]
    right = [answer == record.name for answer, record in zip(answers, known.records, strict=True)]
    trained = subject.known
    found = nearest_indices(drawn_NHWC, trained.on_white())
    near = [trained.records[index].name == record.name for index, record in zip(found, known.records, strict=True)]
    yield Figure("text to picture to text", _share(right), len(right), _share(near), "nearest training picture's name")


SECTIONS: dict[str, Callable[[Subject], Iterator[Figure]]] = {
    "captions": captions,
    "shapes": shapes,
    "names": names,
    "scenes": scenes,
    "interleaved": interleaved,
    "round-trip": round_trip,
}
SHEET = (
    "a red apple",
    "a twemoji drawing of a rocket",
    "a noto drawing of a cat",
    "a green heart",
    "a fluent drawing of a blue square",
    "a purple circle",
    "a rocket on a blue background",
    "a cat left of a pizza",
)


def contact_sheet(subject: Subject, requests: Sequence[str] = SHEET) -> Image.Image:
    """Drawings above the training picture nearest to each, three times enlarged."""
    drawn_NHWC = subject.draw(requests)
    trained_NHWC = subject.known.on_white()
    nearest_NHWC = trained_NHWC[nearest_indices(drawn_NHWC, trained_NHWC)]
    rows = [np.concatenate(list(part), axis=1) for part in (drawn_NHWC, nearest_NHWC)]
    sheet = Image.fromarray(np.concatenate(rows))
    return sheet.resize((3 * sheet.width, 3 * sheet.height), Image.Resampling.NEAREST)


def _request(record: Picture) -> str:
    return prompts.Composition(record.style, record.name, record.group).caption


def _guessed(subject: Subject, parts_NHWC: Bytes, wanted: Sequence[str]) -> list[bool]:
    enlarged = [np.asarray(Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for part in parts_NHWC]
    return _agreement_each(subject.judge.name(np.stack(enlarged)), wanted) if enlarged else []


def _painted(painter: Painter, shown: Sequence[prompts.Composition]) -> Bytes:
    return np.stack([painter.paint(each) for each in shown]) if shown else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def _agreement_each(guesses: Sequence[str], wanted: Sequence[str]) -> list[bool]:
    return [guess == name for guess, name in zip(guesses, wanted, strict=True)]


def _agreement(guesses: Sequence[str], wanted: Sequence[str]) -> float:
    return _share(_agreement_each(guesses, wanted))


def _share(trials: Sequence[bool]) -> float:
    return float(np.mean(trials)) if len(trials) else float("nan")


def _some(pictures: PictureSet, count: int | None, *, seed: int = 0) -> PictureSet:
    if count is None or count >= len(pictures):
        return pictures
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pictures))[:count])
    return PictureSet([pictures.records[index] for index in chosen], pictures.rgba_NHWC[chosen])


def _parts(items: Sequence[Any], title: str) -> Iterator[Sequence[Any]]:
    for start in track(range(0, len(items), ROWS), title, disable=not items):
        yield items[start : start + ROWS]


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(title="The embedded model, on what it never learned from")
    for head in ("figure", "value", "of", "beside", "which is"):
        table.add_column(head, justify="left" if head in ("figure", "which is") else "right")
    for figure in figures:
        beside = "" if figure.baseline is None else f"{figure.baseline:.1%}"
        table.add_row(figure.name, f"{figure.value:.1%}", str(figure.count), beside, figure.against)
    return table


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.evaluate_transformer", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--model", default=FINETUNED / "model", help="folder or registered name (%(default)s)")
    parser.add_argument("--classifier", type=Path, default=FOLDER, help="the classifier's folder (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder for the results (%(default)s)")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS), help="some of the figures")
    parser.add_argument("--temperature", type=float, default=DRAWING.temperature, help="of drawings (%(default)s)")
    parser.add_argument("--top-p", type=float, default=DRAWING.top_p, help="of drawings (%(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=DRAWING.guidance_text, help="by the text; 1 is none (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = DRAWING.replace(
        temperature=arguments.temperature, top_p=arguments.top_p, guidance_text=arguments.guidance
    )
    chameleon = Chameleon.from_pretrained(arguments.model)
    subject = Subject(chameleon, Judge.load(arguments.classifier), PictureSet.load(arguments.data), options)
    figures = [figure for name in arguments.only for figure in SECTIONS[name](subject)]
    Console(width=140).print(_table(figures))
    with replacing(arguments.output / "transformer.json") as temporary:
        report = {"drawing": options.to_dict(), "figures": [asdict(figure) for figure in figures]}
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    with replacing(arguments.output / "transformer.png") as temporary:
        contact_sheet(subject).save(temporary, format="png")


if __name__ == "__main__":
    main()
