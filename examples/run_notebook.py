"""Run notebook.ipynb without Jupyter: each code cell in order, and print what it shows.

``--store`` writes what the cells show into the notebook, as Jupyter does.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")


def read_notebook(path: Path = NOTEBOOK) -> dict[str, Any]:
    """Return a notebook, which is JSON."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def run_notebook(notebook: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Run the code cells in one namespace, and return the outputs of each, as a notebook stores them."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [run_cell("".join(cell["source"]), namespace, number) for number, cell in enumerate(cells, 1)]


def run_cell(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run the source of a cell, and return what it prints and what its last expression shows."""
    tree = ast.parse(source, f"<cell {number}>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), namespace)
    outputs = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines(printed.getvalue())})
    if value is not None:
        result = {"data": shown(value), "execution_count": number, "metadata": {}, "output_type": "execute_result"}
        outputs.append(result)
    return outputs


def shown(value: object) -> dict[str, Any]:
    """Return what a notebook shows of a value, by MIME type."""
    data: dict[str, Any] = {}
    html = getattr(value, "_repr_html_", lambda: None)()
    if html is not None:
        data["text/html"] = lines(html)
    png = getattr(value, "_repr_png_", lambda: None)()
    if png is not None:
        data["image/png"] = base64.b64encode(png).decode("ascii")
    # Pillow's reprs have the address of the object, which differs each time.
    data["text/plain"] = lines(re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value)))
    return data


def lines(text: str) -> list[str]:
    """Return the lines of a text with their ends, the form in which notebooks store texts."""
    return text.splitlines(keepends=True)


def store(notebook: dict[str, Any], outputs: list[list[dict[str, Any]]], path: Path = NOTEBOOK) -> None:
    """Write a notebook with the outputs of its code cells."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    for number, (cell, found) in enumerate(zip(cells, outputs, strict=True), 1):
        cell["execution_count"], cell["outputs"] = number, found
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Run the notebook beside this file."""
    notebook = read_notebook()
    outputs = run_notebook(notebook)
    for number, found in enumerate(outputs, 1):
        for output in found:
            text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
            print(f"[{number}] {''.join(text).rstrip()}")
    if "--store" in sys.argv[1:]:
        store(notebook, outputs)


if __name__ == "__main__":
    main()
