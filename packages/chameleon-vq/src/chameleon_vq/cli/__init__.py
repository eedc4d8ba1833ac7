"""The command ``chameleon-vq``; it needs the extra ``[cli]``."""

from __future__ import annotations

import sys

INSTALL = "pip install './packages/chameleon-vq[cli]'"


def main() -> None:
    """Run the command, or print how to install what it needs."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.stderr.write(f"error: chameleon-vq needs the package {error.name!r}, which isn't installed: {INSTALL}\n")
        raise SystemExit(1) from error
    app()
