"""The tests of the packages that are the programs of ranks, too: loaded as modules, so that longer jobs run in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def program(package: str) -> Any:
    """Return the module ``test_training_ranks.py`` of a package's tests."""
    path = Path(__file__).parents[2] / "packages" / package / "tests" / "test_training_ranks.py"
    spec = importlib.util.spec_from_file_location(f"ranks_of_{package.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
