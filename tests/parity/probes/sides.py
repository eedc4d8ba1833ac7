"""The names that a probe may use, on either side: classes, objects loaded from the same folder, inputs."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from torch import nn
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

import chameleon_core

CLASSES = (
    "ChameleonConfig",
    "ChameleonVQVAEConfig",
    "ChameleonModel",
    "ChameleonForConditionalGeneration",
    "ChameleonVQVAE",
    "ChameleonProcessor",
    "ChameleonImageProcessor",
)
# Objects of transformers that its users pass to a model, whose ever it is.
PASSED = (
    "BitsAndBytesConfig",
    "DynamicCache",
    "GenerationConfig",
    "LogitsProcessorList",
    "MaxLengthCriteria",
    "MinLengthLogitsProcessor",
    "StaticCache",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
    "TemperatureLogitsWarper",
)


def our_classes() -> dict[str, Any]:
    """The classes that users of transformers know, from one import."""
    return {name: getattr(chameleon_core, name) for name in CLASSES}


def their_classes() -> dict[str, Any]:
    """The classes of transformers under the same names."""
    classes = {name: getattr(transformers, name) for name in CLASSES if name != "ChameleonImageProcessor"}
    # The other one needs torchvision.
    return {**classes, "ChameleonImageProcessor": ChameleonImageProcessorPil}


class Names(dict[str, Any]):
    """The names of one side; objects are made when a probe first uses them."""

    def __init__(self, classes: dict[str, Any], folder: Path, scratch: Path) -> None:
        super().__init__(classes)
        self.folder = folder
        self.numbers = itertools.count()
        self.scratch = scratch
        self.update({name: getattr(transformers, name) for name in PASSED})
        self.update(
            Image=PIL.Image,
            Path=Path,
            copy=copy,
            folder=str(folder),
            vq_folder=str(folder / "vqvae"),
            io=io,
            json=json,
            nn=nn,
            np=np,
            os=os,
            pickle=pickle,
            random=random,
            torch=torch,
            tmp=self.tmp,
            saved=self.saved,
            printed=printed,
            files=files,
            read=read,
            **inputs(),
        )

    def __missing__(self, name: str) -> Any:
        made = getattr(self, f"make_{name}", None)
        if made is None:
            raise KeyError(name)
        self[name] = made()
        return self[name]

    def apart(self) -> Names:
        """The same names for objects of its own."""
        other = Names({name: self[name] for name in CLASSES}, self.folder, self.scratch)
        other.numbers = self.numbers
        return other

    def tmp(self) -> str:
        """A new, empty folder."""
        path = self.scratch / str(next(self.numbers))
        path.mkdir()
        return str(path)

    def saved(self, thing: Any, **arguments: Any) -> str:
        """The folder that ``thing`` was saved to."""
        folder = self.tmp()
        thing.save_pretrained(folder, **arguments)
        return folder

    # What the names of objects stand for.

    def make_model(self) -> Any:
        return self["ChameleonForConditionalGeneration"].from_pretrained(self.folder).eval()

    def make_eager(self) -> Any:
        model = self["ChameleonForConditionalGeneration"]
        return model.from_pretrained(self.folder, attn_implementation="eager").eval()

    def make_bare(self) -> Any:
        return self["model"].model

    def make_vqvae(self) -> Any:
        return self["ChameleonVQVAE"].from_pretrained(self.folder / "vqvae").eval()

    def make_config(self) -> Any:
        return self["ChameleonConfig"].from_pretrained(self.folder)

    def make_vq_config(self) -> Any:
        return self["config"].vq_config

    def make_processor(self) -> Any:
        return self["ChameleonProcessor"].from_pretrained(self.folder)

    def make_tokenizer(self) -> Any:
        return self["processor"].tokenizer

    def make_image_processor(self) -> Any:
        return self["ChameleonImageProcessor"].from_pretrained(self.folder)

    def make_batch(self) -> Any:
        return self["processor"](images=self["images"], text=self["prompts"], padding=True, return_tensors="pt")


def printed(work: Callable[[], Any]) -> str:
    """What ``work`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        work()
    return output.getvalue()


def files(folder: str) -> list[str]:
    """The names in a folder."""
    return sorted(os.listdir(folder))


def read(folder: str, name: str) -> Any:
    """A JSON file of a folder."""
    return json.loads((Path(folder) / name).read_text(encoding="utf-8"))


def inputs() -> dict[str, Any]:
    """Ids, masks, pixels and pictures, the same on both sides."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(40, 300, (2, 6), generator=generator)
    ids = torch.cat((torch.zeros(2, 1, dtype=torch.int64), text), 1)
    mask = torch.ones(2, 7, dtype=torch.int64)
    padded, padded_mask = ids.clone(), mask.clone()
    padded[0, :2], padded_mask[0, :2] = 1, 0
    grain = np.random.default_rng(0)
    images = [PIL.Image.fromarray(grain.integers(0, 256, shape, np.uint8)) for shape in ((12, 17, 3), (9, 8, 3))]
    return {
        "ids": ids,
        "mask": mask,
        "one": ids[:1],
        "padded": padded,
        "padded_mask": padded_mask,
        "pixels": torch.rand((2, 3, 8, 8), generator=generator) * 2 - 1,
        "image": images[0],
        "images": images,
        "array": np.asarray(images[0]),
        "prompt": "What is this?<image>",
        "prompts": ["What is this?<image>", "<image>the apple, 12"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the apple?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "red."}]},
        ],
        "jinja": (
            "{% for message in messages %}{{ message.role }}:{% for part in message.content %}"
            "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %};{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        ),
    }
