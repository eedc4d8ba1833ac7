"""Randomness by position: the noise of a choice is a function of (seed, row, position, id), whatever the order of work.

A key stands for (seed, row, position), and the number for an id is the SplitMix64 generator's output at that id: the
generator counts in steps of an odd constant from the key and mixes the bits of the count (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014; the mixer is variant 13 of Stafford, 2011). Integer arithmetic
wraps, so that every device has the same bits.

Shapes: R rows, A ids that may be chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_MASK = 2**64 - 1
_CACHED = 65536
_ONE = 0x3FF0000000000000
"""The bits of 1.0 in float64."""


def noise_key(seed: int, row: int, position: int) -> int:
    """Return the key of a choice, an integer that an int64 tensor holds.

    ``position`` is absolute: the index of the id that is chosen among the row's ids, those of the prompt included, so
    that a continued document gets the noise that it would have had. Each is an integer ≥ 0 of any size.
    """
    key = 0
    for number in (seed, row, position):
        # Numbers of more than 64 bits are mixed in a part at a time.
        while True:
            key = _mix(key + _STEP * (number & _MASK) + _STEP)
            number >>= 64
            if not number:
                break
    return _signed(key)


def gumbel_noise(keys_R: Tensor, ids_A: Tensor) -> Tensor:
    """Return a number from the standard Gumbel distribution for each key and id, float32 [R, A].

    ``keys_R`` int64 [R] are made by ``noise_key``, ``ids_A`` int64 [A] are ids of the vocabulary, so that forbidding
    some changes nothing for others. The likeliest id of ``logits + noise`` is a sample of the logits' softmax.
    """
    steps_A = ids_A * _signed(_STEP)
    # On a CPU as many rows at a time as its caches hold.
    at_once = max(_CACHED // max(len(ids_A), 1), 1) if keys_R.device.type == "cpu" else max(len(keys_R), 1)
    return torch.cat([_noise_of(part_R[:, None] + steps_A) for part_R in torch.split(keys_R, at_once)])


def _noise_of(counts_RA: Tensor) -> Tensor:
    """Return the noise of each count, in whose memory it is computed."""
    bits_RA = _mixed(counts_RA)
    # 52 random bits as the mantissa of a number in [1, 2); less 1 − 2^-53 it is an odd multiple of 2^-53, exactly, and
    # never 0 or 1. The logarithms are float64 so that their last bits, which differ between machines, are rounded off.
    uniform_RA = _shifted(bits_RA, 12).bitwise_or_(_ONE).view(torch.float64).sub_(1 - 2**-53)
    return uniform_RA.log_().neg_().log_().neg_().float()


def _mix(number: int) -> int:
    number &= _MASK
    for shift, factor in _MIXERS:
        number = (number ^ number >> shift) * factor & _MASK
    return number ^ number >> _LAST_SHIFT


def _mixed(numbers: Tensor) -> Tensor:
    """Do in place to each number of a tensor what ``_mix`` does to one."""
    for shift, factor in _MIXERS:
        numbers.bitwise_xor_(_shifted(numbers, shift)).mul_(_signed(factor))
    return numbers.bitwise_xor_(_shifted(numbers, _LAST_SHIFT))


def _shifted(numbers: Tensor, places: int) -> Tensor:
    """Return the numbers shifted to the right without regard to their sign, which ``>>`` would repeat."""
    return (numbers >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """Return the integer of an int64 with the bits of an unsigned one."""
    return number - 2**64 if number >= 2**63 else number
