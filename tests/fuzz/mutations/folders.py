"""What may stand where a file should be: nothing, a folder, a link to itself, a pipe, another file of the folder."""

from __future__ import annotations

from random import Random

from ..engine import FIFO, FOLDER, LOOP, Files, Mutate

_STANDS = {"is a folder": FOLDER, "is a link to itself": LOOP, "is a pipe": FIFO, "is empty": b"", "is a NUL": b"\0"}


def mutate_folder() -> Mutate:
    """Remove, swap or replace whole files."""

    def mutate(random: Random, files: Files) -> list[str]:
        notes = []
        for _ in range(random.choice((1, 1, 2))):
            if not files:
                break
            name = random.choice(sorted(files))
            kind = random.choice(("isn't there", "is another file", *_STANDS))
            if kind == "isn't there":
                del files[name]
            elif kind == "is another file":
                other = random.choice(sorted(files))
                files[name] = files[other]
                kind = f"is a copy of {other}"
            else:
                files[name] = _STANDS[kind]
            notes.append(f"{name} {kind}")
        return notes

    return mutate
