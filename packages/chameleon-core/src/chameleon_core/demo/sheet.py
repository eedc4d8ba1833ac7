"""The contact sheet: what the embedded model can do and what it can't, on one page."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image as PILImage

from chameleon_text import Image, Text

from .page import CONTENT, GREEN, INK, MARGIN, MUTED, TILE, Line, Page, Tile, line_height, text_width
from .prompts import COLOURS, SHAPES, WITHHELD_SEEDS
from .results import Caption, Drawing, Pair, Report, Story

NAMED = 12
"""How many of the named drawings are on the page."""

# Of the grid of colours and shapes.
LABEL = 92
CELL_GAP = 11
BETWEEN = 44
CELL = (CONTENT - LABEL - BETWEEN - CELL_GAP * (len(COLOURS) + len(WITHHELD_SEEDS) - 2)) // (
    len(COLOURS) + len(WITHHELD_SEEDS)
)

STORY_SIZE = 24


def draw_sheet(report: Report) -> PILImage:
    """Return the page of a tour."""
    page = Page()
    page.title("What the embedded model can do, and what it can’t")
    page.paragraph(
        f"One transformer of {_millions(report.transformer_weights)} weights reads and writes text and pictures as one "
        f"stream of tokens; an image tokenizer of {_millions(report.tokenizer_weights)} turns 64 by 64 pixels into 64 "
        f"codes and back. They know {report.known_things} things in three styles of emoji (noto, twemoji, fluent), and "
        "hearts, circles and squares. “chameleon demo” made this page. The requests were chosen, the drawings weren’t: "
        "they have seed 0 where no other is named.",
        colour=INK,
    )
    _known(page, report)
    _pairs(page, report)
    _names(page, report)
    _story(page, report)
    _hard(page, report)
    return page.finished()


def _known(page: Page, report: Report) -> None:
    page.heading("It draws what it learned")
    page.tiles([_beside_nearest(drawing) for drawing in report.known])
    page.paragraph(
        "Small: the training picture that is nearest to the drawing. Judged by a classifier, "
        f"{_share(report, 'drawing a known name')} of the drawings of known things show the thing. "
        f"{_share(report, 'drawings within 20 dB of a training picture')} are within 20 dB of a training picture: "
        "mostly, the model draws from memory."
    )
    page.space(22)
    request = report.repeated[0].request
    page.paragraph(f"One request, “{request}”, with six seeds:", colour=INK)
    page.space(10)
    page.tiles([Tile(drawing.image, [Line(f"seed {drawing.seed}")]) for drawing in report.repeated])
    page.space(-10)


def _pairs(page: Page, report: Report) -> None:
    page.heading("It sometimes combines a colour and a shape that it never saw together")
    right = MARGIN + LABEL + len(COLOURS) * (CELL + CELL_GAP) - CELL_GAP + BETWEEN
    page.write("all colours and shapes, seed 0", MARGIN + LABEL, page.y)
    page.write("the framed pairs with other seeds", right, page.y)
    page.space(line_height() + 2)
    for column, colour in enumerate(COLOURS):
        page.write(colour, MARGIN + LABEL + column * (CELL + CELL_GAP), page.y, colour=MUTED)
    for column, seed in enumerate(WITHHELD_SEEDS):
        page.write(f"seed {seed}", right + column * (CELL + CELL_GAP), page.y, colour=MUTED)
    page.space(line_height() + 8)
    for shape in SHAPES:
        page.write(shape, MARGIN, page.y + (CELL - line_height()) // 2, colour=MUTED)
        _cells(page, MARGIN + LABEL, [pair for pair in report.pairs if pair.shape == shape])
        _cells(page, right, [pair for pair in report.withheld_pairs if pair.shape == shape])
        page.space(CELL + CELL_GAP)
    page.space(8)
    both = "withheld colour and shape: both right"
    nearest = "withheld colour and shape: nearest to the shape of the three"
    page.paragraph(
        "Green frame: withheld from training, in every style. All are requests for twemoji drawings. Over all styles, "
        f"colour and outline are right in {_share(report, both)} of the withheld pairs, and in "
        f"{_baseline(report, both)} of learned ones. That measure is lenient: the outline is nearer to the requested "
        f"shape than to the two others in {_share(report, nearest)}, and in {_baseline(report, nearest)} of learned "
        "pairs."
    )


def _names(page: Page, report: Report) -> None:
    page.heading("It names drawings that it never saw")
    page.tiles([_captioned(caption) for caption in _spread(report.captions, NAMED)])
    exact = "withheld style: exact name"
    page.paragraph(
        f"It learned these things in other styles only. It named {report.right_captions} of {len(report.captions)} "
        "such drawings exactly; those above are taken from them at even distances. In the model card it is "
        f"{_share(report, exact)}. The name of the nearest training picture would be right for "
        f"{_baseline(report, exact)}."
    )


def _story(page: Page, report: Report) -> None:
    page.heading("It continues documents of text and pictures")
    _document(page, report.story)
    page.paragraph(
        "Black: prompts. Green: generated; all before it was its prompt. A second picture shows the right "
        f"thing in {_share(report, 'a second picture after a first: its name')} of cases, but keeps the first one’s "
        f"style in only {_share(report, 'a second picture after a first: its style')}; by chance it would in "
        f"{_baseline(report, 'a second picture after a first: its style')}."
    )


def _hard(page: Page, report: Report) -> None:
    page.heading("It can’t draw scenes, or what it never learned")
    page.tiles([Tile(drawing.image, [Line(f"“{drawing.request}”")]) for drawing in report.hard])
    page.paragraph(
        f"In withheld scenes, both things are right in {_share(report, 'withheld scenes: both parts right')} of the "
        f"drawings. On a coloured ground, the ground is right in {_share(report, 'withheld grounds: ground right')}, "
        f"ground and thing in {_share(report, 'withheld grounds: ground and thing right')}. What it never learned "
        "comes out as a mixture of what it knows, and some of what it did learn comes out wrong, like the cat."
    )


def _document(page: Page, story: Story) -> None:
    """Write a document in one line, and a question about it, at even distances."""
    parts: list[tuple[str | PILImage, str]] = []
    for segment in story.document:
        if isinstance(segment, Text):
            parts.append((segment.text.strip(), INK))
        elif isinstance(segment, Image):
            parts.append((segment.image, GREEN))
    parts += [(story.question, INK), (story.answer, GREEN)]
    widths = [text_width(part, STORY_SIZE) if isinstance(part, str) else TILE for part, _ in parts]
    gap = (CONTENT - sum(widths)) // (len(parts) - 1)
    left = MARGIN
    page.space(6)
    for (part, colour), width in zip(parts, widths, strict=True):
        if isinstance(part, str):
            page.write(part, left, page.y + (TILE - line_height(STORY_SIZE)) // 2, size=STORY_SIZE, colour=colour)
        else:
            page.picture(part, left, page.y, TILE, frame=colour)
        left += width + gap
    page.space(TILE + 18)


def _cells(page: Page, left: int, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        page.picture(pair.drawing.image, left, page.y, CELL, frame=GREEN if pair.is_withheld else None)
        left += CELL + CELL_GAP


def _beside_nearest(drawing: Drawing) -> Tile:
    nearest = drawing.nearest
    return Tile(
        drawing.image,
        [Line(f"“{drawing.request}”")],
        small=nearest.image,
        small_lines=[Line(nearest.name, MUTED), Line(nearest.style, MUTED)],
    )


def _captioned(caption: Caption) -> Tile:
    lines = [Line(caption.answer, is_right=caption.is_right)]
    if not caption.is_right:
        lines.append(Line(f"it is: {caption.picture.name}", MUTED))
    return Tile(caption.picture.image, lines)


def _spread(captions: Sequence[Caption], count: int) -> Sequence[Caption]:
    """Return some of them, at even distances, so that they aren't selected by quality."""
    return [captions[index * len(captions) // count] for index in range(count)]


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million"


def _share(report: Report, name: str) -> str:
    return f"{report.measured[name].value:.1%}"


def _baseline(report: Report, name: str) -> str:
    return f"{report.measured[name].baseline:.1%}"
