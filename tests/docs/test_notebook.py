"""The example notebook: its cells run in order, and what it stores is what they show."""

from __future__ import annotations

import base64
import importlib.util
import io
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA_URL = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
LARGEST = 600_000
# Machines differ in the last bits of a logit, and from an id that differs the rest of a drawing does.
SAME_PICTURES = 0.75
NEAR = 8.0
"""Of 255 levels, the mean difference of pictures that count as the same."""


@pytest.fixture(scope="module")
def runner() -> Any:
    spec = importlib.util.spec_from_file_location("run_notebook", EXAMPLES / "run_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def notebook(runner: Any) -> dict[str, Any]:
    found: dict[str, Any] = runner.read_notebook()
    return found


@pytest.fixture(scope="module")
def outputs(runner: Any, notebook: dict[str, Any]) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = runner.run_notebook(notebook)
    return found


def stored(notebook: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


def without_pictures(outputs: list[list[dict[str, Any]]]) -> Any:
    """Return outputs with a word in place of each picture, and their HTML as one text."""
    found = []
    for output in (each for cell in outputs for each in cell):
        data = dict(output.get("data", {}))
        if "image/png" in data:
            data["image/png"] = "a picture"
        if "text/html" in data:
            data["text/html"] = DATA_URL.sub("a picture", "".join(data["text/html"]))
        found.append({**output, "data": data})
    return found


def pictures(outputs: list[list[dict[str, Any]]]) -> list[npt.NDArray[np.int16]]:
    found: list[str] = []
    for output in (each for cell in outputs for each in cell):
        data = output.get("data", {})
        found += [data["image/png"]] if "image/png" in data else []
        found += DATA_URL.findall("".join(data.get("text/html", [])))
    return [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB"), np.int16) for each in found]


def test_it_is_a_notebook_of_the_fourth_format(notebook: dict[str, Any]) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers) > 10
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run `python examples/run_notebook.py --store`"


def test_every_code_cell_shows_something(outputs: list[list[dict[str, Any]]]) -> None:
    assert all(outputs)
    kinds = {kind for cell in outputs for output in cell for kind in output.get("data", {})}
    assert kinds == {"text/plain", "text/html", "image/png"}


def test_what_is_stored_is_what_the_code_shows(notebook: dict[str, Any], outputs: list[list[dict[str, Any]]]) -> None:
    assert without_pictures(stored(notebook)) == without_pictures(outputs)
    before, now = pictures(stored(notebook)), pictures(outputs)
    assert [each.shape for each in before] == [each.shape for each in now]
    same = [float(np.abs(one - other).mean()) <= NEAR for one, other in zip(before, now, strict=True)]
    assert np.mean(same) >= SAME_PICTURES


def test_it_shows_pictures_with_texts_for_those_who_dont_see_them(outputs: list[list[dict[str, Any]]]) -> None:
    html = "".join("".join(output.get("data", {}).get("text/html", [])) for cell in outputs for output in cell)
    alternatives = re.findall(r'<img alt="([^"]*)"', html)
    assert len(alternatives) == html.count("<img ") == len(DATA_URL.findall(html)) > 10
    assert all(re.fullmatch(r"picture of 64×64 pixels(, 64 codes)?", each) for each in alternatives)
    assert not re.search(r"https?:", html), "everything is in the page itself"


def test_it_stays_small() -> None:
    assert (EXAMPLES / "notebook.ipynb").stat().st_size < LARGEST


def test_a_cell_that_fails_says_where(runner: Any) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        runner.run_cell("1 / 0", {}, 7)
    assert traceback.extract_tb(raised.tb)[-1].filename == "<cell 7>"


def test_what_a_cell_prints_and_shows(runner: Any) -> None:
    namespace: dict[str, Any] = {}
    assert runner.run_cell("x = 2\nprint('a')\nx + 1", namespace, 1) == [
        {"name": "stdout", "output_type": "stream", "text": ["a\n"]},
        {"data": {"text/plain": ["3"]}, "execution_count": 1, "metadata": {}, "output_type": "execute_result"},
    ]
    assert runner.run_cell("y = x", namespace, 2) == []
