"""The command ``chameleon-vq``."""

from __future__ import annotations

import sys

INSTALL = "pip install './packages/chameleon-vq[cli]'"


def main() -> None:
    """Run the command. Without its packages, say how to install them."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.stderr.write(f"The command needs the package {error.name!r}, which is not installed: {INSTALL}\n")
        raise SystemExit(1) from error
    app()
