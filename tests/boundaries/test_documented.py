"""Every field of every public configuration and options class has a docstring under it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("Config", "Options", "Quantization", "ImageProcessor")
"""How the names of such classes end."""


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """The public classes of configurations and options, and where they are."""
    for path in sorted(ROOT.glob("packages/*/src/*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(NAMES) and not node.name.startswith("_"):
                yield f"{path.parent.name}/{path.name}:{node.name}", node


def undocumented(node: ast.ClassDef) -> list[str]:
    """The fields of a class without a docstring."""
    found = []
    for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or "ClassVar" in ast.unparse(statement.annotation):
            continue
        is_documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
        if not is_documented:
            found.append(ast.unparse(statement.target))
    return found


CLASSES = dict(classes())


def test_there_are_such_classes() -> None:
    names = {where.rpartition(":")[2] for where in CLASSES}
    assert names >= {"ChameleonConfig", "ChameleonVQVAEConfig", "GenerationOptions", "TrainingOptions", "Quantization"}


@pytest.mark.parametrize("where", CLASSES)
def test_every_field_is_documented(where: str) -> None:
    assert undocumented(CLASSES[where]) == []
