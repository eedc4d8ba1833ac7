"""Measure the trained model on withheld data: ``python -m recipes.emoji.evaluate_transformer``.

Prints a table and writes, into its folder, ``transformer.json`` (the figures with their baselines) and
``transformer.png`` (drawings above the nearest training picture). Everything goes through ``Chameleon``, as it does for
a user, with fixed seeds.

Shapes: B pictures, J training pictures, H W pixels, C channels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from chameleon_core import Chameleon
from chameleon_core.evaluation.embedded_requests import (
    COLOURS,
    COMPOSED,
    GROUNDS,
    ONE_WORD,
    SHAPES,
    STYLES,
    WHAT,
    WHICH_GROUP,
    WITH_STYLE,
    is_withheld,
    name_in,
    with_article,
)

from . import prompts
from .classifier import FOLDER, Judge
from .compositions import Painter, only_named
from .finetune import FINETUNED
from .measures import ink, median_colour, nearest_indices, overlap, psnr_of
from .pictures import DATA, SIDE, Picture, PictureSet, replacing
from .splits import WITHHELD_SHAPES
from .trials import DRAWING, Bytes, Figure, Subject, agreement, agreements, sample, share_of

RESULTS = Path("build/emoji/evaluation")
COPY_DB = (20.0, 25.0)
"""From which PSNR on a drawing counts as a copy of a training picture, in decibels: two definitions."""


def captions(subject: Subject, *, limit: int | None = None) -> Iterator[Figure]:
    """Measure names and groups of known things in a style that was withheld."""
    known = subject.known
    group_of = {record.name: record.group for record in known.records}
    unseen = sample(
        subject.pictures.where(lambda picture: picture.split == "withheld-style" and picture.name in group_of), limit
    )
    white_BHWC = unseen.on_white()
    names = [record.name for record in unseen.records]
    groups = [record.group for record in unseen.records]
    # All drawings whose names were learned, of any style.
    named = only_named(subject.pictures)
    found = nearest_indices(white_BHWC, np.concatenate([known.on_white(), named.on_white()]))
    near = [[*known.records, *named.records][index] for index in found]
    near_exact = share_of([record.name == name for record, name in zip(near, names, strict=True)])
    near_group = share_of([record.group == group for record, group in zip(near, groups, strict=True)])
    against = "nearest training picture"
    answers = [name_in(answer) for answer in subject.ask(list(white_BHWC), WHAT)]
    exact = share_of([answer == name for answer, name in zip(answers, names, strict=True)])
    yield Figure("withheld style: exact name", exact, len(names), near_exact, against)
    grouped = share_of([group_of.get(answer) == group for answer, group in zip(answers, groups, strict=True)])
    yield Figure("withheld style: group of the name", grouped, len(names), near_group, against)
    told = subject.ask(list(white_BHWC), WHICH_GROUP)
    right = [prompts.GROUPS.get(group or 0) == answer for answer, group in zip(told, groups, strict=True)]
    yield Figure("withheld style: group, when asked for it", share_of(right), len(names), near_group, against)
    words = [index for index, name in enumerate(names) if " " not in name]
    told = subject.ask([white_BHWC[index] for index in words], ONE_WORD)
    right = [answer == names[index] for answer, index in zip(told, words, strict=True)]
    near_word = share_of([near[index].name == names[index] for index in words])
    yield Figure("withheld style: named in one word", share_of(right), len(words), near_word, against)
    style = subject.ask(list(white_BHWC), WITH_STYLE)
    right = [f"a {record.style} drawing of" in answer for answer, record in zip(style, unseen.records, strict=True)]
    near_style = share_of([record.style == other.style for record, other in zip(near, unseen.records, strict=True)])
    yield Figure("withheld style: style right", share_of(right), len(names), near_style, against)
    seen = sample(known, limit or len(unseen))
    answers = [name_in(answer) for answer in subject.ask(list(seen.on_white()), WHAT)]
    exact = share_of([answer == record.name for answer, record in zip(answers, seen.records, strict=True)])
    yield Figure("learned pictures: exact name", exact, len(seen))


def shapes(subject: Subject, *, draws: int = 12) -> Iterator[Figure]:
    """Measure drawings of the pairs of colour and shape that were withheld in every style, and of learned pairs.

    The hue is right if, of the seven colours in which the style has this shape, the requested one is nearest to the
    drawing's. The shape is right if the drawing's ink and the outline of the shape overlap by more than 0.7, which is
    lenient, because a circle overlaps with a square by as much; a separate figure counts drawings that overlap with the
    requested shape more than with the two others.
    """
    real = {(record.style, record.name): index for index, record in enumerate(subject.pictures.records)}
    learned_pairs = [f"{COLOURS[(index + 5) % 7]} {shape}" for index, shape in enumerate(SHAPES)]  # none is withheld
    results = {}
    for kind, names in (("withheld", sorted(WITHHELD_SHAPES)), ("learned", learned_pairs)):
        wanted = [(style, name) for name in names for style in STYLES if (style, name) in real] * draws
        drawn_BHWC = subject.draw([f"a {style} drawing of a {name}" for style, name in wanted])
        hues, outlines, nearest = [], [], []
        for (style, name), drawn_HWC in zip(wanted, drawn_BHWC, strict=True):
            colour, shape = name.split()
            inks = {each: subject.pictures.rgba_BHWC[real[style, f"{each} {shape}"]] for each in COLOURS}
            seen = median_colour(drawn_HWC, ink(drawn_HWC))
            distances = {
                each: float(np.abs(seen - median_colour(rgba_HWC[..., :3], rgba_HWC[..., 3] > 128)).sum())
                for each, rgba_HWC in inks.items()
            }
            hues.append(min(distances, key=distances.__getitem__) == colour)
            # Outlines of one shape are the same in all colours: take a learned one, which isn't withheld.
            other = "red" if colour != "red" else "yellow"
            overlaps = {
                each: overlap(ink(drawn_HWC), subject.pictures.rgba_BHWC[real[style, f"{other} {each}"]][..., 3] > 128)
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
        yield Figure(f"withheld colour and shape: {what}", share_of(measured), len(measured), share_of(other), against)


def names(subject: Subject, *, draws: int = 200) -> Iterator[Figure]:
    """Measure whether the classifier recognises drawings of known names, and whether they copy training pictures."""
    known = sample(subject.known, draws)
    said = [record.name for record in known.records]
    drawn_BHWC = subject.draw([_request(record) for record in known.records])
    unseen = subject.pictures.where(
        lambda picture: picture.split == "withheld-style" and picture.name in subject.judge.names
    )
    ceiling = agreement(subject.judge.name(unseen.on_white()), [record.name for record in unseen.records])
    tokenizer = subject.chameleon.image_tokenizer
    again_BHWC = np.stack([np.asarray(image) for image in tokenizer.decode(tokenizer.encode(list(known.on_white())))])
    through = agreement(subject.judge.name(again_BHWC), said)
    yield Figure("classifier: held-out pictures (its ceiling)", ceiling, len(unseen))
    yield Figure("classifier: learned pictures through the image tokenizer", through, len(known))
    named = agreement(subject.judge.name(drawn_BHWC), said)
    yield Figure("drawing a known name", named, len(said), ceiling, "the classifier on held-out pictures")
    requests = [_request(record) for record in unseen.records]
    named = agreement(subject.judge.name(subject.draw(requests, seed=1)), [record.name for record in unseen.records])
    yield Figure("drawing a known name in a withheld style", named, len(unseen), ceiling, "the same")
    trained_JHWC = subject.known.on_white()
    nearest_BHWC = trained_JHWC[nearest_indices(drawn_BHWC, trained_JHWC)]
    near = [psnr_of(one, other) for one, other in zip(drawn_BHWC, nearest_BHWC, strict=True)]
    copied = [psnr_of(one, other) for one, other in zip(again_BHWC, known.on_white(), strict=True)]
    for limit in COPY_DB:
        share = share_of([value > limit for value in near])
        best = share_of([value > limit for value in copied])
        title = f"drawings within {limit:.0f} dB of a training picture"
        yield Figure(title, share, len(near), best, "training pictures through the image tokenizer")


def scenes(subject: Subject, *, draws: int = 100) -> Iterator[Figure]:
    """Measure withheld pairs of things and withheld grounds; the classifier names each part, cut out and enlarged."""
    random = np.random.default_rng(0)
    records = [record for record in subject.known.records if record.name in COMPOSED]
    drawings = {(record.style, record.name) for record in records}
    pairs: list[tuple[Picture, Picture]] = []
    grounds: list[tuple[Picture, str]] = []
    colours = [colour for colour in GROUNDS if colour != "white"]
    for _ in range(1000 * draws):
        first, second = (records[int(index)] for index in random.integers(len(records), size=2))
        paired = first.name != second.name and (first.style, second.name) in drawings
        if len(pairs) < draws and paired and is_withheld(first.name, second.name):
            pairs.append((first, second))
        colour = str(random.choice(colours))
        if len(grounds) < draws and is_withheld(first.name, f"{colour} ground"):
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
            _guessed(subject, scenes_BHWC[:, 16:48, :32], [first.name for first, _ in pairs]),
            _guessed(subject, scenes_BHWC[:, 16:48, 32:], [second.name for _, second in pairs]),
        )
        for scenes_BHWC in (subject.draw([each.caption for each in shown]), _painted(painter, shown))
    )
    both, real_both = ([one and other for one, other in zip(*sides, strict=True)] for sides in (drawn, real))
    against = "the same scenes, put together from learned pictures"
    yield Figure("withheld scenes: both parts right", share_of(both), len(both), share_of(real_both), against)
    parts, real_parts = ([*left, *right] for left, right in (drawn, real))
    yield Figure("withheld scenes: a part right", share_of(parts), len(parts), share_of(real_parts), against)
    shown = [prompts.Composition(record.style, record.name, ground=colour) for record, colour in grounds]
    drawn_BHWC = subject.draw([each.caption for each in shown])
    painted = []
    for (_, colour), drawn_HWC in zip(grounds, drawn_BHWC, strict=True):
        corners = np.median(drawn_HWC[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float), axis=0)
        painted.append(min(GROUNDS, key=lambda each: float(np.abs(corners - GROUNDS[each]).sum())) == colour)
    wanted = [record.name for record, _ in grounds]
    thing = agreements(subject.judge.name(drawn_BHWC), wanted)
    both = [one and other for one, other in zip(painted, thing, strict=True)]
    yield Figure("withheld grounds: ground right", share_of(painted), len(painted), 1 / len(GROUNDS), "chance")
    real_thing = agreement(subject.judge.name(_painted(painter, shown)), wanted)
    against = "the thing, on the same grounds under learned pictures"
    yield Figure("withheld grounds: ground and thing right", share_of(both), len(both), real_thing, against)


def interleaved(subject: Subject, *, draws: int = 100) -> Iterator[Figure]:
    """Measure the picture that follows a text, a learned picture and a text; the classifier names it."""
    random = np.random.default_rng(0)
    known = subject.known
    white_BHWC = known.on_white()
    requests, wanted = [], []
    while len(wanted) < draws:
        first, second = (int(index) for index in random.integers(len(known), size=2))
        one, other = known.records[first], known.records[second]
        if one.style == other.style and one.name != other.name and not is_withheld(one.name, other.name):
            before, after = f"here is {with_article(one.name)}", f" and {with_article(other.name)}"
            requests.append([before, white_BHWC[first], after])
            wanted.append(other)
    drawn_BHWC = subject.draw(requests, seed=3)
    named = agreement(subject.judge.name(drawn_BHWC), [record.name for record in wanted])
    yield Figure("a second picture after a first: its name", named, len(wanted))
    found = nearest_indices(drawn_BHWC, white_BHWC)
    styles = [known.records[index].style == record.style for index, record in zip(found, wanted, strict=True)]
    by_chance = 1 / len(STYLES)
    yield Figure("a second picture after a first: its style", share_of(styles), len(wanted), by_chance, "chance")


def round_trip(subject: Subject, *, draws: int = 200) -> Iterator[Figure]:
    """Measure text to picture to text: the model names its own drawings, which it reads as pixels."""
    known = sample(subject.known, draws, seed=1)
    drawn_BHWC = subject.draw([_request(record) for record in known.records], seed=2)
    answers = [name_in(answer) for answer in subject.ask(list(drawn_BHWC), WHAT)]
    right = [answer == record.name for answer, record in zip(answers, known.records, strict=True)]
    trained = subject.known
    found = nearest_indices(drawn_BHWC, trained.on_white())
    near = [trained.records[index].name == record.name for index, record in zip(found, known.records, strict=True)]
    yield Figure(
        "text to picture to text", share_of(right), len(right), share_of(near), "nearest training picture's name"
    )


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
    """Return drawings above the training picture nearest to each, enlarged three times."""
    drawn_BHWC = subject.draw(requests)
    trained_JHWC = subject.known.on_white()
    nearest_BHWC = trained_JHWC[nearest_indices(drawn_BHWC, trained_JHWC)]
    rows = [np.concatenate(list(part), axis=1) for part in (drawn_BHWC, nearest_BHWC)]
    sheet = Image.fromarray(np.concatenate(rows))
    return sheet.resize((3 * sheet.width, 3 * sheet.height), Image.Resampling.NEAREST)


def _request(record: Picture) -> str:
    return prompts.Composition(record.style, record.name, record.group).caption


def _guessed(subject: Subject, parts_BHWC: Bytes, wanted: Sequence[str]) -> list[bool]:
    enlarged = [np.asarray(Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for part in parts_BHWC]
    return agreements(subject.judge.name(np.stack(enlarged)), wanted) if enlarged else []


def _painted(painter: Painter, shown: Sequence[prompts.Composition]) -> Bytes:
    return np.stack([painter.paint(each) for each in shown]) if shown else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(title="The embedded model on withheld data")
    for head in ("figure", "value", "of", "baseline", "which is"):
        table.add_column(head, justify="left" if head in ("figure", "which is") else "right")
    for figure in figures:
        baseline = "" if figure.baseline is None else f"{figure.baseline:.1%}"
        table.add_row(figure.name, f"{figure.value:.1%}", str(figure.count), baseline, figure.against)
    return table


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.evaluate_transformer", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--model", default=FINETUNED / "model", help="folder or registered name (%(default)s)")
    parser.add_argument("--classifier", type=Path, default=FOLDER, help="the classifier's folder (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder for the results (%(default)s)")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS), help="only these figures")
    parser.add_argument("--temperature", type=float, default=DRAWING.temperature, help="of drawings (%(default)s)")
    parser.add_argument("--top-p", type=float, default=DRAWING.top_p, help="of drawings (%(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=DRAWING.guidance_text, help="guidance by the text; 1 is none (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads (%(default)s)")
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
