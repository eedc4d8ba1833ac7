"""Loading a checkpoint of the 7B model's width with four layers: time, and the memory that no file backs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from loading import wide_config, write

from chameleon_core import ChameleonForConditionalGeneration

from .comparing import require_equal
from .rates import reading
from .row import Contest, Goal, LatestOnly, Limit, Row, Scale, milliseconds

LOAD_ALONE = Path(__file__).parents[1] / "weight_quantizers.py"


class Written:
    """A checkpoint of random weights in a temporary folder, which is removed with the object."""

    def __init__(self, scale: Scale) -> None:
        layers, width, vocabulary_size = scale.pick((4, 4096, 65536), (2, 1024, 65536), (1, 128, 512))
        self._folder = tempfile.TemporaryDirectory(prefix="chameleon-wide-")
        self.config = wide_config(layers, width=width, vocabulary_size=vocabulary_size)
        self.path = Path(self._folder.name)
        write(self.path, self.config)
        self.taken: dict[str, Any] = {}

    @property
    def bytes(self) -> int:
        """The size of all weights."""
        return sum(path.stat().st_size for path in self.path.glob("*.safetensors"))

    @property
    def largest_layer(self) -> int:
        """The bytes of the largest linear layer, which isn't the output layer, in float32."""
        return 4 * self.config.hidden_size * self.config.intermediate_size

    def load_alone(self, quantizer: str | None) -> Any:
        """Load in a process of its own, and return what it took: "seconds", and "peak" and "size" in bytes."""
        command = [sys.executable, str(LOAD_ALONE), "--folder", str(self.path)]
        command += [] if quantizer is None else ["--load", quantizer]
        self.taken = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        return self.taken


written = LatestOnly(Written)


def load(scale: Scale) -> Contest:
    """Return a contest over the milliseconds of loading, in a process that has everything imported."""
    checkpoint = written(scale)
    ours = partial(ChameleonForConditionalGeneration.from_pretrained, checkpoint.path, dtype=torch.bfloat16)
    theirs = partial(
        transformers.ChameleonForConditionalGeneration.from_pretrained, checkpoint.path, dtype=torch.bfloat16
    )

    def compare() -> None:
        expected = theirs().state_dict()
        for name, tensor in ours().state_dict().items():
            require_equal(tensor, expected[name], name)

    return Contest(milliseconds(ours), milliseconds(theirs), compare=compare)


def load_quantized(quantizer: str, scale: Scale) -> Contest:
    """Return a contest over the milliseconds of loading quantized."""
    checkpoint = written(scale)
    return Contest(lambda: 1000 * checkpoint.load_alone(quantizer)["seconds"], limit=reading(checkpoint.bytes, scale))


def memory(quantizer: str | None, scale: Scale) -> Contest:
    """Return a contest over the megabytes of memory that no file backs, at most while loading."""
    checkpoint = written(scale)
    limit = None
    if quantizer is not None:
        # The size of what our side, whose turn is before, has loaded.
        least = lambda: (checkpoint.taken["size"] + checkpoint.largest_layer) / 1e6  # noqa: E731
        limit = Limit("the result and the largest layer", least)
    return Contest(lambda: checkpoint.load_alone(quantizer)["peak"] / 1e6, limit=limit)


ROWS = [
    Row("load-bfloat16", "loading 2.7 GB of bfloat16", load, goal=Goal(peer=1.0)),
    Row("load-int4", "loading 2.7 GB of bfloat16 as int4", partial(load_quantized, "int4")),
    Row("load-bfloat16-memory", "anonymous memory of loading it", partial(memory, None), "MB", Goal(figure=20.0)),
    Row("load-int4-memory", "anonymous memory of loading it as int4", partial(memory, "int4"), "MB", Goal(limit=1.0)),
]
