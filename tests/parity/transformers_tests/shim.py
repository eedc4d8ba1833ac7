"""A plugin for pytest under which the tests of transformers test the classes of this repository.

The names that the tests import from transformers are given our classes before they do. Modules that the source
distribution of transformers leaves out get stand-ins without tests. The counts are printed by test class: many tests
reach into modules of transformers, and can't pass.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import transformers
from transformers.models.chameleon import (
    configuration_chameleon,
    image_processing_pil_chameleon,
    modeling_chameleon,
    processing_chameleon,
)

import chameleon_core

CLASSES = {
    "ChameleonConfig": configuration_chameleon,
    "ChameleonVQVAEConfig": configuration_chameleon,
    "ChameleonModel": modeling_chameleon,
    "ChameleonForConditionalGeneration": modeling_chameleon,
    "ChameleonVQVAE": modeling_chameleon,
    "ChameleonProcessor": processing_chameleon,
    "ChameleonImageProcessor": image_processing_pil_chameleon,
}
LEFT_OUT = {
    "tests.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "tests.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "fetch_hub_objects_for_ci": {"url_to_local_path": str},
}
OUTCOMES = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}


def pytest_configure() -> None:
    """Put our classes where the tests import them from."""
    for name, module in CLASSES.items():
        for place in (transformers, transformers.models.chameleon, module):
            setattr(place, name, getattr(chameleon_core, name))
    for name, contents in LEFT_OUT.items():
        if not exists(name):
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(contents)


def exists(name: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests of each class pass. Those that skip themselves aren't counted."""
    counts: dict[str, Counter[str]] = {}
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if outcome in OUTCOMES and isinstance(report, pytest.TestReport):
                counts.setdefault(class_of(report), Counter())[OUTCOMES[outcome]] += 1
    terminalreporter.section("tests of transformers that pass")
    for name, count in sorted(counts.items()):
        run = count["passed"] + count["failed"]
        terminalreporter.line(f"{name}: {count['passed']} of {run} ({count['skipped']} skipped)")


def class_of(report: Any) -> str:
    """The name of the test class of a report."""
    parts = report.nodeid.split("::")
    return str(parts[1] if len(parts) > 2 else parts[0])
