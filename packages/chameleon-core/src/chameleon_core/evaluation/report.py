"""The report of an evaluation: a page with tables and plots that needs no other file, and the JSON beside it."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .._boundary import translates_errors
from .._commits import committing
from .._files import writing
from .plots import Plot, plots
from .results import Evaluation
from .tables import CAPTIONS, Table, tables

PAGE = "evaluation.html"
DATA = "evaluation.json"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #fbfaf7; --muted: #66666b; --rule: #d9d6cf; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --paper: #18191b; --muted: #a2a2a8; --rule: #3a3b3f; }
}
body { margin: 2.5rem auto; padding: 0 1.2rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.8rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.25rem; margin-top: 2.4rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
p { max-width: 48rem; }
.muted, caption { color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: 0.5rem; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: right; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid var(--rule); }
.text { text-align: left; }
td { white-space: nowrap; }
ul { font-size: 0.9rem; padding-left: 1.2rem; }
tr + tr td { border-top: 1px solid var(--rule); }
figure { margin: 1.4rem 0; padding: 0.8rem; background: #ffffff; border-radius: 8px; }
figure img { width: 100%; height: auto; display: block; }
"""


@translates_errors
def write_report(evaluation: Evaluation, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ``evaluation.html`` and ``evaluation.json`` into a folder, both together, and return their paths.

    Raises ``FileAccessError``, and ``MissingPackageError`` without matplotlib.
    """
    page = page_of(evaluation)
    data = json.dumps(evaluation.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
    with writing(folder), committing(folder) as save:
        (save / PAGE).write_text(page, encoding="utf-8")
        (save / DATA).write_text(f"{data}\n", encoding="utf-8")
    return Path(folder) / PAGE, Path(folder) / DATA


def page_of(evaluation: Evaluation) -> str:
    """Return the page, a whole HTML document."""
    title = f"Evaluation of {html.escape(evaluation.model)}"
    machine = ", ".join(f"{name} {value}" for name, value in evaluation.machine.items())
    drawn = plots(evaluation)
    parts = "\n".join(
        part for table in tables(evaluation) for part in _section(table, drawn.get(table.title), evaluation)
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f'<body>\n<h1>{title}</h1>\n<p class="muted">{html.escape(machine)}; measured in '
        f"{evaluation.seconds:.0f} s</p>\n"
        f"{parts}\n</body>\n</html>\n"
    )


def _section(table: Table, plot: Plot | None, evaluation: Evaluation) -> Iterator[str]:
    yield f"<section>\n<h2>{html.escape(table.title)}</h2>"
    if plot is not None:
        data = base64.b64encode(plot.svg.encode()).decode("ascii")
        alternative = html.escape(plot.description)
        yield f'<figure><img alt="{alternative}" src="data:image/svg+xml;base64,{data}"></figure>'
    yield _table(table)
    if table.remarks:
        remarks = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(text)}</li>\n" for name, text in table.remarks)
        yield f"<ul>\n{remarks}</ul>"
    if table.title == CAPTIONS:
        for figures in evaluation.captions:
            yield _table(
                Table("", ("reference", "the model's caption"), figures.examples, f"Of {figures.name}.", texts=2)
            )
    yield "</section>"


def _table(table: Table) -> str:
    heads = "".join(_cell("th", head, place, table) for place, head in enumerate(table.heads))
    rows = "\n".join(
        f"<tr>{''.join(_cell('td', value, place, table) for place, value in enumerate(row))}</tr>" for row in table.rows
    )
    return (
        f'<div class="wide"><table>\n<caption>{html.escape(table.note)}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cell(name: str, value: str, place: int, table: Table) -> str:
    # A column without a name has remarks.
    is_text = place < table.texts or not table.heads[place]
    kind = ' class="text"' if is_text else ""
    return f"<{name}{kind}>{html.escape(value)}</{name}>"
