"""Run the command ``chameleon`` as ``python -m chameleon_core``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
