# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""The state of a training run as a file has it: read with suspicion, and checked before any of it is applied."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.optim import Optimizer

from .._files import check_is_file
from ..errors import FileFormatError

T = TypeVar("T")

StepCount = Annotated[int, Meta(ge=0, le=2**62)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]


class Moments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of AdamW for one parameter."""

    step: Tensor
    """A float32 scalar: the updates of the parameter."""
    exp_avg: Tensor
    """The mean of the gradients, with the shape and dtype of the parameter."""
    exp_avg_sq: Tensor
    """The mean of their squares, with the shape and dtype of the parameter, ≥ 0."""


class ParameterGroup(msgspec.Struct, frozen=True):
    """Which parameters a group has. Its options are those of the run, and aren't read."""

    params: list[int]


class OptimizerState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``state_dict()`` of an ``AdamW``."""

    state: dict[int, Moments]
    param_groups: list[ParameterGroup]

    def checked(self, optimizer: Optimizer, *, steps: int, source: object) -> dict[str, Any]:
        """Return the mapping for ``optimizer.load_state_dict``, with the options that the optimizer has.

        ``steps`` are those that the run has done. Raises ``FileFormatError`` where the state isn't one of these
        parameters after at most so many steps.
        """
        groups = optimizer.state_dict()["param_groups"]
        if [group.params for group in self.param_groups] != [group["params"] for group in groups]:
            sizes = [len(group.params) for group in self.param_groups]
            expected = [len(group["params"]) for group in groups]
            raise FileFormatError(
                f"{source}: the optimizer's state is of groups of {sizes} parameters, expected {expected}."
            )
        parameters = dict(enumerate(each for group in optimizer.param_groups for each in group["params"]))
        for index, moments in self.state.items():
            name = f"{source}: the optimizer's state of parameter {index}"
            if index not in parameters:
                raise FileFormatError(f"{name} is of none of the {len(parameters)} parameters.")
            check_tensor(moments.step, torch.tensor(0.0), name=f"{name}, step,")
            check_tensor(moments.exp_avg, parameters[index], name=f"{name}, exp_avg,")
            check_tensor(moments.exp_avg_sq, parameters[index], name=f"{name}, exp_avg_sq,")
            if not 0 <= float(moments.step) <= steps or bool((moments.exp_avg_sq < 0).any()):
                raise FileFormatError(
                    f"{name} is of step {float(moments.step):g}, expected 0…{steps}, or has squares < 0."
                )
        return {
            "state": {index: msgspec.structs.asdict(moments) for index, moments in self.state.items()},
            "param_groups": groups,
        }


def read_state(path: str | os.PathLike[str], kind: type[T], *, advice: str) -> T:
    """Read what ``torch.save`` wrote as an object of a ``msgspec.Struct``; no code of the file runs.

    Raises ``MissingFileError``, ``FileAccessError``, and ``FileFormatError`` with ``advice``.
    """
    check_is_file(path)
    try:
        return msgspec.convert(torch.load(path, map_location="cpu", weights_only=True), kind)
    # torch.load raises many more than it documents on a damaged file; none of them is more than that.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
        raise FileFormatError(f"{path} is not the state of a training run: {reason:.200}. {advice}") from error


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: object) -> None:
    """Raise ``FileFormatError`` where the tensors of a module's state aren't those that it has."""
    if found.keys() != expected.keys():
        missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise FileFormatError(
            f"{source} is the state of another model: it lacks {', '.join(missing) or 'nothing'}, and has beside the "
            f"model's {', '.join(map(ascii, unexpected)) or 'nothing'}."
        )
    for name, like in expected.items():
        check_tensor(found[name], like, name=f"{source}: {name}")


def check_tensor(found: Tensor, like: Tensor, *, name: str) -> None:
    """Raise ``FileFormatError`` where a tensor hasn't the shape and dtype of ``like``, or isn't finite."""
    if type(found) is not Tensor or found.device.type != "cpu" or found.layout != torch.strided or found.is_quantized:
        raise FileFormatError(f"{name} is a {type(found).__name__} on {found.device}, expected a plain tensor.")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise FileFormatError(f"{name} is {found.dtype} {list(found.shape)}, expected {like.dtype} {list(like.shape)}.")
    if found.is_floating_point() and not bool(found.isfinite().all()):
        raise FileFormatError(f"{name} holds NaN or infinity.")


def checked_generator(found: Tensor, *, device: str | torch.device, name: str) -> Tensor:
    """Return the state of a random generator, contiguous. Raises ``FileFormatError`` where it isn't one."""
    generator = torch.Generator(device)
    check_tensor(found, generator.get_state(), name=name)
    found = found.contiguous()
    try:
        generator.set_state(found)
    except RuntimeError as error:
        raise FileFormatError(f"{name} isn't the state of a random generator.") from error
    return found
