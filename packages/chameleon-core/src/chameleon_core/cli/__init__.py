"""The command line, ``chameleon``; it needs the extra ``[cli]``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what to install where its libraries are missing."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("typer", "rich"):
            raise
        sys.exit(
            f"error: the command line needs {library}, which isn't installed. From the toolkit's folder: "
            'python -m pip install ./packages/chameleon-backends "./packages/chameleon-core[cli]"'
        )
    app()
