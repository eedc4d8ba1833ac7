"""Ways to break a file: bytes, JSON, safetensors, pictures, pickles, and what may stand where a file should be.

A mutation takes a ``random.Random`` and the files of a small valid folder, changes some, and returns one line for each
change. The same random state gives the same bytes, on every machine.
"""

from __future__ import annotations

from .bytes_ import change_bytes, mutate_bytes
from .folders import mutate_folder
from .json_ import change_json, mutate_json, mutate_lines
from .pickles import mutate_pickle
from .pictures import mutate_picture
from .safetensors_ import mutate_safetensors

__all__ = [
    "change_bytes",
    "change_json",
    "mutate_bytes",
    "mutate_folder",
    "mutate_json",
    "mutate_lines",
    "mutate_pickle",
    "mutate_picture",
    "mutate_safetensors",
]
