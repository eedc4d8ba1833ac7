"""What a run found: counts by format and outcome, and each fault once, with the input that shows it most simply."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .engine import Outcome, Verdict


@dataclass
class Fault:
    """Inputs that show the same fault."""

    example: Verdict
    count: int = 0
    formats: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: Verdict) -> None:
        """Count an input, and keep the simplest one."""
        self.count += 1
        self.formats[verdict.format] += 1
        if _size(verdict) < _size(self.example):
            self.example = verdict


@dataclass
class Report:
    """The findings of a run."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    faults: dict[tuple[str, ...], Fault] = field(default_factory=dict)
    peak: int = 0
    slowest: Verdict | None = None

    def add(self, verdict: Verdict, peak: int) -> None:
        """Count an input."""
        self.counts.setdefault(verdict.format, Counter())[verdict.outcome] += 1
        self.seconds[verdict.format] += verdict.seconds  # type: ignore[assignment]  # a Counter of floats
        self.peak = max(self.peak, peak)
        if self.slowest is None or verdict.seconds > self.slowest.seconds:
            self.slowest = verdict
        if verdict.outcome.is_finding:
            self.faults.setdefault(verdict.fault, Fault(verdict)).add(verdict)

    @property
    def total(self) -> int:
        """How many inputs were judged."""
        return sum(sum(counts.values()) for counts in self.counts.values())

    @property
    def num_findings(self) -> int:
        """How many inputs show a fault."""
        return sum(fault.count for fault in self.faults.values())

    def text(self) -> str:
        """The report for people."""
        outcomes = list(Outcome)
        lines = [f"{'format':24}" + "".join(f"{each:>10}" for each in outcomes) + f"{'ms each':>10}"]
        for name, counts in sorted(self.counts.items()):
            each = 1000 * self.seconds[name] / sum(counts.values())
            lines.append(f"{name:24}" + "".join(f"{counts[outcome]:>10}" for outcome in outcomes) + f"{each:>10.1f}")
        slowest = "" if self.slowest is None else f", slowest {self.slowest.seconds:.2f} s ({_name(self.slowest)})"
        lines.append(f"{self.total:,} inputs, peak {self.peak / 1e6:.0f} MB{slowest}")
        if not self.faults:
            return "\n".join([*lines, "No findings."])
        lines.append(f"\n{self.num_findings:,} findings, {len(self.faults)} faults:")
        for fault in sorted(self.faults.values(), key=lambda fault: -fault.count):
            example = fault.example
            lines += [
                f"\n{example.outcome.upper()} {example.error} in {example.place or '?'}",
                f"  {fault.count} times: {', '.join(f'{name} {count}' for name, count in fault.formats.most_common())}",
                f"  python -m tests.fuzz show {_name(example)}",
                *(f"    {note[:200]}" for note in example.notes[:4]),
                f"    → {' '.join(example.message.split())[:200]}",
            ]
        return "\n".join(lines)

    def write_json(self, path: Path) -> None:
        """The report for programs."""
        data: dict[str, Any] = {
            "inputs": self.total,
            "findings": self.num_findings,
            "peak_bytes": self.peak,
            "slowest": None if self.slowest is None else asdict(self.slowest),
            "counts": {name: dict(counts) for name, counts in sorted(self.counts.items())},
            "faults": [
                {"count": fault.count, "formats": dict(fault.formats), "example": asdict(fault.example)}
                for fault in sorted(self.faults.values(), key=lambda fault: -fault.count)
            ],
        }
        path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def _name(verdict: Verdict) -> str:
    return f"{verdict.format} {verdict.index}"


def _size(verdict: Verdict) -> tuple[int, int]:
    return len(verdict.notes), sum(map(len, verdict.notes))
