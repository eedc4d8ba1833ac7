"""Update the tables of the model card: ``python -m recipes.emoji.card``.

The figures are those that ``evaluate``, ``evaluate_transformer`` and ``stability`` wrote. They are copied into the
package with the curves of every training: those of the model into its source, where ``chameleon_emoji.figures`` finds
them, and everything else beside the card.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .pictures import replacing

PACKAGE = Path("packages/chameleon-emoji")
RUNS = Path("build/emoji")
INSTALLED = "src/chameleon_emoji/figures"
# What the card shows: its file in the package, and where it is copied from, below the folder of the runs.
FIGURES = {
    f"{INSTALLED}/tokenizer.json": "evaluation/tokenizer.json",
    "figures/tokenizer.png": "evaluation/tokenizer.png",
    f"{INSTALLED}/transformer.json": "evaluation/transformer.json",
    "figures/transformer.png": "evaluation/transformer.png",
    "figures/stability.json": "evaluation/stability.json",
    "figures/stability.png": "evaluation/stability.png",
    "figures/tokenizer-curves.png": "tokenizer/curves.png",
    "figures/transformer-curves.png": "transformer/curves.png",
    "figures/naming-curves.png": "finetuned/naming/curves.png",
    "figures/finetuned-curves.png": "finetuned/curves.png",
}
LAST_STEPS = 20


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns, except the first, are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def tokenizer_table(report: dict[str, Any]) -> str:
    """Return the table of ``evaluate``'s figures."""
    rows = [
        (
            each["name"],
            str(each["pictures"]),
            f"{each['psnr']:.2f}",
            f"{each['ssim']:.3f}",
            f"{each['psnr_lowest_tenth']:.2f}",
            f"{each['psnr_thumbnail']:.2f}",
            "" if each["psnr_nearest"] is None else f"{each['psnr_nearest']:.2f}",
        )
        for each in report["sets"]
    ]
    head = ("pictures", "how many", "PSNR, dB", "SSIM", "worst tenth, dB", "thumbnail, dB", "nearest, dB")
    used = (
        f"Of the codes, {report['codebook_usage_of_the_trained_styles']:.1%} are used by the trained styles' pictures."
    )
    return f"{table(head, rows)}\n\n{used}"


def transformer_table(report: dict[str, Any]) -> str:
    """Return the table of ``evaluate_transformer``'s figures."""
    rows = [
        (
            each["name"],
            f"{each['value']:.1%}",
            str(each["count"]),
            "" if each["baseline"] is None else f"{each['baseline']:.1%}",
            each["against"],
        )
        for each in report["figures"]
    ]
    return table(("figure", "share", "of", "baseline", "which is"), rows)


def stability_table(report: dict[str, Any]) -> str:
    """Return the table of ``stability``'s runs, at their ends."""
    rows = [
        (
            f"{'with' if each['qk_norm'] else 'without'} qk-norm, {'with' if each['z_loss'] else 'without'} z-loss",
            f"{statistics.mean(each['loss'][-LAST_STEPS:]):.2f}",
            f"{max(each['gradient_norm']):.1f}",
            f"{statistics.mean(each['squared_log_normalizer'][-LAST_STEPS:]):.0f}",
            "yes" if each["diverged"] else "no",
        )
        for each in report["runs"]
    ]
    head = ("run", "loss at the end, nats", "largest gradient", "log²Z at the end", "diverged")
    return table(head, rows)


TABLES = {
    f"{INSTALLED}/tokenizer.json": tokenizer_table,
    f"{INSTALLED}/transformer.json": transformer_table,
    "figures/stability.json": stability_table,
}


def filled(card: str, package: Path) -> str:
    """Return the card with the tables of the package's figures, each between its two marks."""
    for path, make in TABLES.items():
        name = Path(path).stem
        made = make(json.loads((package / path).read_text(encoding="utf-8")))
        marks = (f"<!-- {name} -->", f"<!-- end of {name} -->")
        pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
        if len(pattern.findall(card)) != 1:
            raise ValueError(f"The card must have {marks[0]} and {marks[1]} once each, around the table.")
        card = pattern.sub(lambda _, text=f"{marks[0]}\n{made}\n{marks[1]}": text, card)
    return card


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.card", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RUNS, help="the folder of all stages (%(default)s)")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="the folder of the card (%(default)s)")
    arguments = parser.parse_args()
    for path, source in FIGURES.items():
        with replacing(arguments.package / path) as temporary:
            shutil.copyfile(arguments.runs / source, temporary)
    card = arguments.package / "MODEL_CARD.md"
    text = filled(card.read_text(encoding="utf-8"), arguments.package)
    with replacing(card) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
