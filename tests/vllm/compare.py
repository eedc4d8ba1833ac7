"""Run requests on vLLM and on chameleon-core, and print as JSON which wrote the same, a line for each folder.

    python -m tests.vllm.compare FOLDER... [NAME=VALUE ...]

The others are engine arguments, in JSON. A process of its own, because vLLM's engine is made once in a process, or
again after what is global in it was taken down.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chameleon_core import Chameleon

from .cases import CASES, SIZED, vllm_of, written

ROOT = Path(__file__).parents[2]


def compared(folders: Sequence[Path], **arguments: Any) -> list[dict[str, bool]]:
    """Return what the script prints for folders: the names of the cases, and whether the ids are the same."""
    words = [f"{name}={json.dumps(value)}" for name, value in arguments.items()]
    command = [sys.executable, "-m", "tests.vllm.compare", *map(str, folders), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def compare(folder: str, **arguments: Any) -> dict[str, bool]:
    """Return which cases have the same ids."""
    ours = Chameleon.from_pretrained(folder)
    has_sizes = ours.layout.sized_pictures is not None
    cases, template = (SIZED, "completion") if has_sizes else (CASES, "chat")
    theirs = vllm_of(folder, **arguments)
    return {
        name: written(ours, case, template=template) == written(theirs, case, template=template)
        for name, case in cases.items()
    }


def main() -> None:
    """Print a mapping of the case to whether the ids are the same, for each folder."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    arguments = {
        name: json.loads(value) for name, _, value in (word.partition("=") for word in sys.argv if "=" in word)
    }
    for folder in (word for word in sys.argv[1:] if "=" not in word):
        found = compare(folder, **arguments)
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
