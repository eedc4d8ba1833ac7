"""The generated part of ``docs/compatibility.md``: counts, what differs and why, and what is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .probes import Result, Status

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"
BEGIN, END = "<!-- begin of the probes -->", "<!-- end of the probes -->"
TITLES: dict[Status, str] = {
    "same": "the same",
    "both refuse": "refused by both",
    "other": "other by design",
    "refused": "refused",
}


def render(results: Sequence[Result]) -> str:
    """Markdown of all results."""
    areas = list(dict.fromkeys(result.probe.area for result in results))

    def count(status: Status, area: str | None = None) -> int:
        return sum(result.status == status and area in (None, result.probe.area) for result in results)

    lines = [f"| area | {' | '.join(TITLES.values())} |", "|---|" + "---|" * len(TITLES)]
    for area in areas:
        lines.append(f"| {area.replace('-', ' ')} | {' | '.join(str(count(each, area)) for each in TITLES)} |")
    lines += [f"| together | {' | '.join(str(count(each)) for each in TITLES)} |", ""]
    for status, title in (("other", "Other by design"), ("refused", "Refused")):
        lines += [f"### {title}", ""]
        for area in areas:
            rows = [each for each in results if (each.status, each.probe.area) == (status, area)]
            if rows:
                lines += [f"| {area.replace('-', ' ')} | why |", "|---|---|", *map(row, rows), ""]
    lines += ["### The same", "", "Where both refuse, the line ends with `# refused`.", ""]
    for area in areas:
        lines += [f"{area.replace('-', ' ').capitalize()}:", "", "```text"]
        lines += [
            each.probe.line + ("  # refused" if each.status == "both refuse" else "")
            for each in results
            if each.probe.area == area and each.status in ("same", "both refuse")
        ]
        lines += ["```", ""]
    return "\n".join(lines)


def row(result: Result) -> str:
    """A row of a table of differences. A cell can't contain a bar, even in code."""
    reason = result.probe.reason or "Not the same yet."
    return f"| `{result.probe.line.replace('|', '&#124;')}` | {reason.replace('|', '&#124;')} |"


def generated(page: str) -> str:
    """The part of the page that ``write_page`` writes."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def write_page(results: Sequence[Result]) -> None:
    """Put the results into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{render(results).strip()}\n\n{END}{after}", encoding="utf-8")
