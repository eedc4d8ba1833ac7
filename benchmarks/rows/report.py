"""The benchmark's results as lines of a table, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .measuring import Figures, Measured
from .row import Scale

COLUMNS = f"{'ours':>11}{'peer':>11}{'limit':>11}  {'unit':14}{'to peer':>8}{'of limit':>9}{'spread':>8}"
HEAD = f"{'row':28}{COLUMNS}  goal, notes"


def machine_lines(machine: Mapping[str, Any], load: float | None) -> str:
    """Return the machine in three lines."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; load {_number(load)}\n"
        f"instructions: {' '.join(machine['instructions']) or 'none of note'}; torch uses {machine['kernels']}\n"
        f"{machine['system']}; {versions}; {machine['date']}"
    )


def rate_lines(rates: Mapping[str, float]) -> str:
    """Return the machine's limits in a line."""
    parts = [f"{name} {_number(rate / 1e9)} {'GB/s' if name == 'read' else 'GFLOP/s'}" for name, rate in rates.items()]
    return f"limits: {', '.join(parts)}"


def line(measured: Measured, scale: Scale) -> str:
    """Return a row of the table."""
    row = measured.row
    if measured.error is not None:
        return f"{row.name:28}failed: {measured.error}"
    sides = "".join(f"{_figure(side):>11}" for side in (measured.ours, measured.theirs, measured.limit))
    ratios = f"{_times(measured.times_peer):>8}{_share(measured.share_of_limit):>9}"
    widest = max(side.spread for side in (measured.ours, measured.theirs) if side is not None)
    text = f"{row.name:28}{sides}  {row.unit:14}{ratios}{f'±{widest:.0%}':>8}  {'; '.join(_notes(measured, scale))}"
    return text.rstrip()


def _notes(measured: Measured, scale: Scale) -> list[str]:
    notes = []
    # The goals are those of the full size.
    if scale is Scale.FULL and str(measured.row.goal):
        missed = measured.missed
        notes.append(f"{measured.row.goal}: {'missed: ' + ', '.join(missed) if missed else 'reached'}")
    if measured.is_disturbed:
        notes.append(f"DISTURBED: others took {measured.others:.2f} cores")
    return notes


def as_json(measured: Measured, scale: Scale) -> dict[str, Any]:
    """Return a row for the JSON file."""
    return {
        "name": measured.row.name,
        "summary": measured.row.summary,
        "unit": measured.row.unit,
        "ours": _side_json(measured.ours),
        "peer": _side_json(measured.theirs),
        "limit": {"work": measured.limit_name, **(_side_json(measured.limit) or {})} if measured.limit else None,
        "times_peer": measured.times_peer,
        "share_of_limit": measured.share_of_limit,
        "goal": str(measured.row.goal) or None,
        "missed": measured.missed if scale is Scale.FULL else None,
        "cores_taken_by_others": measured.others,
        "disturbed": measured.is_disturbed,
        "seconds": measured.seconds,
        "error": measured.error,
    }


def _side_json(figures: Figures | None) -> dict[str, Any] | None:
    if figures is None or not figures.values:
        return None
    return {"median": figures.median, "spread": figures.spread, "values": figures.values}


def _figure(figures: Figures | None) -> str:
    return "–" if figures is None else _number(figures.median)


def _number(value: float | None) -> str:
    """Return a number with three digits, or all digits before its point."""
    if value is None:
        return "unknown"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"


def _share(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"
