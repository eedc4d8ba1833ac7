"""Run requests on vLLM and on chameleon-core, and print as JSON which wrote the same.

    python -m tests.vllm.compare FOLDER [NAME=VALUE ...]

The others are engine arguments, in JSON. A process of its own for each model, because vLLM's engine is made once in a
process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from chameleon_core import Chameleon

from .cases import CASES, SIZED, vllm_of, written

ROOT = Path(__file__).parents[2]


def compared(folder: Path, **arguments: Any) -> dict[str, bool]:
    """Return what the script prints for a folder: the names of the cases, and whether the ids are the same."""
    words = [f"{name}={json.dumps(value)}" for name, value in arguments.items()]
    command = [sys.executable, "-m", "tests.vllm.compare", str(folder), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a mapping of the case to whether the ids are the same."""
    folder, *words = sys.argv[1:]
    arguments = {name: json.loads(value) for name, _, value in (word.partition("=") for word in words)}
    ours = Chameleon.from_pretrained(folder)
    has_sizes = ours.layout.sized_pictures is not None
    cases, template = (SIZED, None) if has_sizes else (CASES, "chat")
    theirs = vllm_of(folder, **arguments)
    found = {
        name: written(ours, case, template=template) == written(theirs, case, template=template)
        for name, case in cases.items()
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
