"""An evaluation as tables of text, for a terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .results import Evaluation

PICTURES = "Image tokenizer"
TEXT = "Text"
CAPTIONS = "Captions"
DRAWINGS = "Drawings"
VARIANTS = "Attention backends and weight quantizers"
CARD = "The model card's figures, measured again"


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its first columns are texts, and all after them numbers."""

    title: str
    heads: tuple[str, ...]
    """The names of the columns; a terminal shows one that has several lines in several."""
    rows: tuple[tuple[str, ...], ...]
    note: str
    """What the numbers are."""
    texts: int = 1
    """How many columns are texts."""
    remarks: tuple[tuple[str, str], ...] = ()
    """What isn't in the table, and why; what is said of a row."""


def tables(evaluation: Evaluation) -> list[Table]:
    """Return a table for each part that was measured."""
    return [table for table in _all(evaluation) if table.rows or table.remarks]


def _all(evaluation: Evaluation) -> Iterator[Table]:
    yield _pictures(evaluation)
    yield Table(
        TEXT,
        ("file", "ids", "characters", "perplexity", "bits per byte"),
        tuple(
            (each.name, f"{each.ids:,}", f"{each.characters:,}", f"{each.perplexity:.2f}", f"{each.bits_per_byte:.3f}")
            for each in evaluation.text
        ),
        "In windows of the model's context, each begun anew; perplexity is of an id among all of the vocabulary.",
    )
    yield Table(
        CAPTIONS,
        ("source", "pictures", "exact", "CIDEr-D"),
        tuple(
            (each.name, f"{each.pictures:,}", f"{each.exact:.1%}", _number(each.cider_d, ".3f"))
            for each in evaluation.captions
        ),
        "The likeliest answers. Exact: one of the references, without case and a full stop at the end.",
    )
    yield Table(
        DRAWINGS,
        ("source", "drawings", "PSNR, dB", "SSIM", "above 20 dB"),
        tuple(
            (each.name, f"{each.drawings:,}", f"{each.psnr:.2f}", f"{each.ssim:.3f}", f"{each.near:.1%}")
            for each in evaluation.drawings
        ),
        "Each drawing beside the picture of its prompt.",
    )
    yield _variants(evaluation)
    yield _card(evaluation)


def _card(evaluation: Evaluation) -> Table:
    rows: list[tuple[str, ...]] = []
    left_out: dict[str, list[str]] = {}
    for each in evaluation.card:
        if each.value is None:
            left_out.setdefault(each.reason or "", []).append(each.name)
        else:
            state = "equal" if each.equals else "differs"
            rows.append((each.name, f"{each.value:.1%}", f"{each.count:,}", f"{each.card:.1%}", state))
    remarks = ((reason, "; ".join(names)) for reason, names in left_out.items())
    heads = ("figure", "measured", "of", "card", "")
    return Table(CARD, heads, tuple(rows), "Shares of trials, with the seeds of the card.", remarks=tuple(remarks))


def _pictures(evaluation: Evaluation) -> Table:
    has_lpips = any(each.lpips is not None for each in evaluation.pictures)
    has_rfid = any(each.rfid is not None for each in evaluation.pictures)
    heads: tuple[str, ...] = ("pictures", "how\nmany", "PSNR,\ndB", "worst\ntenth", "SSIM", "codes\nused", "perplexity")
    heads += (("LPIPS",) if has_lpips else ()) + (("rFID",) if has_rfid else ()) + ("encoded\n/s", "decoded\n/s")
    rows = []
    for each in evaluation.pictures:
        row = [each.name, f"{each.pictures:,}", f"{each.psnr:.2f}", f"{each.psnr_lowest_tenth:.2f}"]
        row += [f"{each.ssim:.3f}", f"{each.codes_used:.1%}", f"{each.perplexity:,.0f}"]
        row += [_number(each.lpips, ".4f")] if has_lpips else []
        row += [_number(each.rfid, ".3f")] if has_rfid else []
        rows.append((*row, f"{each.encoded_per_second:,.1f}", f"{each.decoded_per_second:,.1f}"))
    note = "Means over pictures, of 8-bit pixels, after encoding and decoding; SSIM with uniform windows of 7 pixels."
    return Table(PICTURES, heads, tuple(rows), note)


def _variants(evaluation: Evaluation) -> Table:
    heads = ("name", "top-1\nagreement", "mean KL,\nnats", "largest\nKL", "weights,\nMB", "prompt\nids/s", "new\nids/s")
    rows, remarks = [], []
    for each in evaluation.variants:
        changes = ", ".join(f"{name} {value}" for name, value in each.options.items())
        whose = "" if each.distribution.startswith("chameleon-backends ") else f"from {each.distribution}"
        if each.reason is not None:
            remarks.append((each.name, "; ".join(filter(None, (each.reason, whose)))))
            continue
        row = [each.name, _number(each.top1_agreement, ".2%"), _number(each.mean_divergence, ".1e")]
        row += [_number(each.largest_divergence, ".1e"), f"{(each.weight_bytes or 0) / 1e6:,.1f}"]
        rows.append((*row, _number(each.prompt_ids_per_second, ",.0f"), _number(each.new_ids_per_second, ",.0f")))
        remarks += [(each.name, "; ".join(filter(None, (changes, whose))))] if changes or whose else []
    measured = [each for each in evaluation.variants if each.positions]
    on = f", at {measured[0].positions:,} positions in {measured[0].dtype}" if measured else ""
    note = (
        f"Beside the same model in float32 with eager{on}: how often both have the same likeliest id, and the "
        "Kullback–Leibler divergence of the predictions. Speeds are of one row."
    )
    return Table(VARIANTS, heads, tuple(rows), note, remarks=tuple(remarks))


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
