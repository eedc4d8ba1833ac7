"""Weights that other libraries packed: what their tensors say of a layer, its codes, and the weight that these are.

GPTQ, AWQ and compressed-tensors quantize groups of a row's neighbours: a weight is ``scale · (code − zero point)``.
They differ in the order of the codes in the 32 bits of a stored number, in its axes, and in how zero points are stored.

Shapes: O output features, I input features, G groups of a row, J numbers of 32 bits.
X and Y are the rows and columns of codes, U the bytes of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import FileFormatError
from ..formats import StoredTensor

_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ puts eight neighbours in a number: its four bits have the columns 0, 2, 4, 6, 1, 3, 5, 7."""

Load = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A quantized weight as a library stored it; its tensors are loaded when it is."""

    name: str
    """The name of the layer, for messages."""
    bits: int
    """The bits of a code, 4 or 8."""
    shape: tuple[int, int]
    """The shape of the weight, [O, I]."""
    codes: Load
    """Returns the codes, of which 0 is the lowest, uint8 [O, I]."""
    scales: Load
    """Returns the scales, floats [O, G]."""
    zero_points: Load | None
    """Returns the code that stands for zero in each group, int16 [O, G]; None where it is the middle one."""
    group_size: int
    """The neighbours that share a scale."""
    group_of: Load | None
    """Returns the group of each input, integers [I]; None where no tensor says it, and groups are neighbours."""
    is_ordered: bool
    """Whether groups are neighbours, as the configuration says."""
    scale_dtype: torch.dtype
    """The type of the scales."""
    is_symmetric: bool
    """Whether zero is the middle code in all groups."""

    @property
    def middle(self) -> int:
        """The middle code."""
        return 1 << (self.bits - 1)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [O, I], computed in float32 and rounded once.

        Raises ``FileFormatError`` where an input's group isn't one of those that have scales.
        """
        codes_OI, scales_OG = self.codes().to(torch.int16), self.scales().float()
        zeros_OG = (
            torch.full(scales_OG.shape, self.middle, dtype=torch.int16)
            if self.zero_points is None
            else self.zero_points()
        )
        group_I = torch.arange(self.shape[1]) // self.group_size if self.group_of is None else self.group_of().long()
        if group_I.numel() and not 0 <= int(group_I.min()) <= int(group_I.max()) < scales_OG.shape[1]:
            raise FileFormatError(
                f"{self.name}.g_idx has groups from {int(group_I.min())} to {int(group_I.max())}, and there are "
                f"{scales_OG.shape[1]} groups. Download the folder again."
            )
        difference_OI = codes_OI.sub_(zeros_OG[:, group_I]).float()
        return difference_OI.mul_(scales_OG[:, group_I]).to(dtype)

    def symmetric_codes(self) -> Tensor:
        """Return the codes around zero, int8 [O, I]. Raises ``FileFormatError`` where zero isn't the middle code."""
        if self.zero_points is not None and bool((self.zero_points() != self.middle).any()):
            raise FileFormatError(
                f"{self.name} has zero points that differ from {self.middle}, and its quantization_config says that "
                "it is symmetric. Read it with dequantize=True, or correct the configuration."
            )
        neighbours_I = torch.arange(self.shape[1]) // self.group_size
        if self.group_of is not None and not torch.equal(self.group_of().long(), neighbours_I):
            raise FileFormatError(
                f"{self.name}.g_idx isn't the order of the inputs, and its quantization_config says desc_act false. "
                "Read it with dequantize=True, or correct the configuration."
            )
        return (self.codes().to(torch.int16) - self.middle).to(torch.int8)


def unpacked_gptq(number: StoredTensor, bits: int) -> Tensor:
    """Return GPTQ's codes [I, O] of numbers [J, O]: the lowest bits have the first of the rows."""
    return _split(number.load().T, bits).T


def unpacked_columns(number: StoredTensor, bits: int) -> Tensor:
    """Return the codes [X, Y] of numbers [X, J]: the lowest bits have the first of the columns."""
    return _split(number.load(), bits)


def unpacked_awq(number: StoredTensor) -> Tensor:
    """Return AWQ's codes [X, Y] of numbers [X, J], in the order of the columns."""
    codes_XY = _split(number.load(), 4)
    return torch.unflatten(codes_XY, 1, (-1, 8))[:, :, list(_AWQ_PLACES)].flatten(1)


def gptq(
    name: str,
    parts: dict[str, StoredTensor],
    *,
    bits: int,
    group_size: int,
    plus_one: bool,
    by_activation: bool,
    symmetric: bool,
) -> PackedWeight:
    """Return a layer of GPTQ: ``qweight`` [J, O], ``qzeros`` [G, J], ``scales`` [G, O] and, if there is one, ``g_idx``.

    ``plus_one`` is the first version of the format, whose zero points are stored less one. ``by_activation`` says that
    the order of the inputs isn't that of the groups (``desc_act``).
    """
    qweight, qzeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    inputs, outputs = qweight.shape[0] * (32 // bits), qweight.shape[1]
    size = inputs if group_size == -1 else group_size
    check_shapes(
        name,
        {"qzeros": qzeros, "scales": scales},
        {"qzeros": (-(-inputs // size), -(-outputs * bits // 32)), "scales": (-(-inputs // size), outputs)},
    )
    g_idx = parts.get("g_idx")
    if g_idx is not None:
        check_shapes(name, {"g_idx": g_idx}, {"g_idx": (inputs,)})

    def zero_points() -> Tensor:
        return unpacked_columns(qzeros, bits)[:, :outputs].to(torch.int16).T + int(plus_one)

    return PackedWeight(
        name,
        bits,
        (outputs, inputs),
        codes=lambda: unpacked_gptq(qweight, bits).T,
        scales=lambda: scales.load().T,
        zero_points=zero_points,
        group_size=size,
        group_of=None if g_idx is None else g_idx.load,
        is_ordered=not by_activation,
        scale_dtype=scales.dtype,
        is_symmetric=symmetric,
    )


def awq(name: str, parts: dict[str, StoredTensor], *, group_size: int) -> PackedWeight:
    """Return a layer of AWQ: ``qweight`` [I, J], ``qzeros`` [G, J] and ``scales`` [G, O], four bits a code."""
    qweight, qzeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    inputs, outputs = qweight.shape[0], qweight.shape[1] * 8
    size = inputs if group_size == -1 else group_size
    groups = -(-inputs // size)
    check_shapes(
        name, {"qzeros": qzeros, "scales": scales}, {"qzeros": (groups, outputs // 8), "scales": (groups, outputs)}
    )
    return PackedWeight(
        name,
        4,
        (outputs, inputs),
        codes=lambda: unpacked_awq(qweight).T,
        scales=lambda: scales.load().T,
        zero_points=lambda: unpacked_awq(qzeros).to(torch.int16).T,
        group_size=size,
        group_of=None,
        is_ordered=True,
        scale_dtype=scales.dtype,
        is_symmetric=False,
    )


def compressed(name: str, parts: dict[str, StoredTensor], *, bits: int, shape: tuple[int, int]) -> PackedWeight:
    """Return a layer of compressed-tensors: codes, ``weight_scale`` [O, G], with zero points and groups if it has any.

    The codes are ``weight_packed`` [O, J], raised so that the lowest is 0, or ``weight``, int8 [O, I].
    """
    outputs, inputs = shape
    scale = parts["weight_scale"]
    groups = scale.shape[1] if len(scale.shape) == 2 else 1
    per_row = scale.shape[:1] == (outputs,)
    check_shapes(
        name, {"weight_scale": scale}, {"weight_scale": (outputs, groups) if per_row else (1,) * len(scale.shape)}
    )
    if groups == 0 or inputs % groups:
        raise FileFormatError(f"{name}.weight_scale has {groups} groups of {inputs} inputs, which they don't divide.")
    packed = parts.get("weight_packed")
    middle = 1 << (bits - 1)
    if packed is None:
        codes = partial(_raised, parts["weight"], middle)
    else:
        check_shapes(name, {"weight_packed": packed}, {"weight_packed": (outputs, -(-inputs * bits // 32))})
        codes = partial(_columns, packed, bits, inputs)
    zero, index = parts.get("weight_zero_point"), parts.get("weight_g_idx")
    if zero is not None and packed is not None:
        check_shapes(name, {"weight_zero_point": zero}, {"weight_zero_point": (-(-outputs * bits // 32), groups)})
    elif zero is not None:
        check_shapes(name, {"weight_zero_point": zero}, {"weight_zero_point": scale.shape})
    if index is not None:
        check_shapes(name, {"weight_g_idx": index}, {"weight_g_idx": (inputs,)})

    def scales() -> Tensor:
        value = scale.load()
        return value.reshape(outputs, groups) if per_row else value.reshape(1, 1).expand(outputs, 1)

    def zero_points() -> Tensor:
        assert zero is not None
        if packed is not None:
            return _split(zero.load().T, bits)[:, :outputs].to(torch.int16).T
        value = zero.load().to(torch.int16) + middle
        return value.reshape(outputs, groups) if per_row else value.reshape(1, 1).expand(outputs, 1)

    return PackedWeight(
        name,
        bits,
        shape,
        codes=codes,
        scales=scales,
        zero_points=None if zero is None else zero_points,
        group_size=inputs // groups,
        group_of=None if index is None else index.load,
        is_ordered=index is None,
        scale_dtype=scale.dtype,
        is_symmetric=zero is None,
    )


def check_shapes(name: str, found: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Raise ``FileFormatError`` where a part of a layer has another shape."""
    for part, shape in expected.items():
        if found[part].shape != shape:
            raise FileFormatError(
                f"{name}.{part} is {list(found[part].shape)}; with its other tensors and the quantization_config it "
                f"should be {list(shape)}. Check that they belong together."
            )


def _columns(packed: StoredTensor, bits: int, columns: int) -> Tensor:
    return unpacked_columns(packed, bits)[:, :columns]


def _raised(codes: StoredTensor, middle: int) -> Tensor:
    return (codes.load().to(torch.int16) + middle).to(torch.uint8)


def _split(number_XJ: Tensor, bits: int) -> Tensor:
    """Return the codes, uint8 [X, Y], of numbers of 32 bits, the lowest bits first."""
    byte_XU = number_XJ.contiguous().view(torch.uint8)  # little-endian, as the files and every machine of torch's
    if bits == 8:
        return byte_XU
    return torch.stack((byte_XU & 15, byte_XU >> 4), dim=-1).flatten(1)
