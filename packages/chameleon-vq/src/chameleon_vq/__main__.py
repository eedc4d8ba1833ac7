"""Runs the command ``chameleon-vq`` as ``python -m chameleon_vq``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
