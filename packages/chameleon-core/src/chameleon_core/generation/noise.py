"""Randomness by position: the noise of a choice is a function of (seed, row, position, id), whatever the order of work.

A key stands for (seed, row, position), and the number for an id is the SplitMix64 generator's output at that id: the
generator counts in steps of an odd constant from the key and mixes the bits of the count (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014; the mixer is variant 13 of Stafford, 2011). Integer arithmetic
wraps, so that every device has the same bits.

Shapes: R rows, A ids that may be chosen, X those among which the choice is.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_MASK = 2**64 - 1
_CACHED = 65536
_FEW = 4096
"""Below so many ids all noise is computed at once."""
_ROUGH = 0.1
"""How much lower than the noise the rough noise may be; it is never by half of that."""
_ONE = 0x3FF0000000000000
"""The bits of 1.0 in float64."""


@functools.lru_cache(maxsize=4096)  # guesses are checked in several passes
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
    rows = _rows_at_once(keys_R, ids_A)
    if len(keys_R) <= rows:
        return _noise_of(_random_bits(keys_R[:, None] + steps_A))
    parts = torch.split(keys_R, rows)
    return torch.cat([_noise_of(_random_bits(part_R[:, None] + steps_A)) for part_R in parts])


def argmax_with_noise(logits_RA: Tensor, keys_R: Tensor, ids_A: Tensor) -> Tensor:
    """Return ``(logits_RA + gumbel_noise(keys_R, ids_A)).argmax(dim=-1)``, int64 [R], in less time for many ids."""
    if len(ids_A) < _FEW or keys_R.device.type != "cpu":
        return (logits_RA + gumbel_noise(keys_R, ids_A)).argmax(dim=-1)
    steps_A = ids_A * _signed(_STEP)
    places = [_argmax_of_many(logits_A, key + steps_A) for logits_A, key in zip(logits_RA, keys_R, strict=True)]
    return torch.stack(places)


def _argmax_of_many(logits_A: Tensor, counts_A: Tensor) -> Tensor:
    """Return the place of the likeliest id with the noise of its count, in float64 only for ids that may be it."""
    bits_A = _random_bits(counts_A)
    rough_A = _rough_noise_of(bits_A).add_(logits_A)
    near_X = rough_A.max(dim=-1, keepdim=True).indices  # argmax takes longer
    # What is chosen is at least as likely as this one, and the rough noise is nowhere much lower than the noise.
    least = (logits_A[near_X] + _noise_of(bits_A[near_X])).item()
    near_X = (rough_A >= least - _ROUGH - 1e-6 * abs(least)).nonzero()[:, 0]
    return near_X[(logits_A[near_X] + _noise_of(bits_A[near_X])).argmax()]


def _rows_at_once(keys_R: Tensor, ids_A: Tensor) -> int:
    """Return how many rows are computed together: on a CPU as many as its caches hold."""
    return max(_CACHED // max(len(ids_A), 1), 1) if keys_R.device.type == "cpu" else max(len(keys_R), 1)


def _random_bits(counts: Tensor) -> Tensor:
    """Return the 52 random bits of each count, integers ≥ 0, in whose memory they are computed."""
    return _shifted_(_mixed_(counts), 12)


def _noise_of(bits: Tensor) -> Tensor:
    """Return the noise of random bits, float32; it grows with the bits, in whose memory it is computed."""
    # The bits are the mantissa of a number in [1, 2); less 1 − 2^-53 it is an odd multiple of 2^-53, exactly, and
    # never 0 or 1. The logarithms are float64 so that their last bits, which differ between machines, are rounded off.
    uniform = bits.bitwise_or_(_ONE).view(torch.float64).sub_(1 - 2**-53)
    return uniform.log_().neg_().log_().neg_().float()


def _rough_noise_of(bits: Tensor) -> Tensor:
    """Return the noise of random bits, roughly: at most ``_ROUGH`` lower, higher by any amount; float32.

    It is computed from 1 − u, because float32 tells apart the smallest of these, which are the highest noise.
    """
    less_rest = bits.mul(2).sub_(2**53 - 1).float().mul_(2.0**-53)
    # The u that are too small to tell apart are taken for the largest of them.
    return less_rest.clamp_(min=2.0**-24 - 1).log1p_().neg_().log_().neg_()


def _mix(number: int) -> int:
    number &= _MASK
    for shift, factor in _MIXERS:
        number = (number ^ number >> shift) * factor & _MASK
    return number ^ number >> _LAST_SHIFT


def _mixed_(numbers: Tensor) -> Tensor:
    """Do in place to each number of a tensor what ``_mix`` does to one."""
    shifted = torch.empty_like(numbers)
    for shift, factor in _MIXERS:
        torch.bitwise_right_shift(numbers, shift, out=shifted)
        numbers.bitwise_xor_(_unsigned_(shifted, shift)).mul_(_signed(factor))
    torch.bitwise_right_shift(numbers, _LAST_SHIFT, out=shifted)
    return numbers.bitwise_xor_(_unsigned_(shifted, _LAST_SHIFT))


def _shifted_(numbers: Tensor, places: int) -> Tensor:
    """Shift numbers to the right in place without regard to their sign, which ``>>`` repeats."""
    return _unsigned_(numbers.bitwise_right_shift_(places), places)


def _unsigned_(shifted: Tensor, places: int) -> Tensor:
    """Clear the bits that a shift to the right made of the sign, in place."""
    return shifted.bitwise_and_((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """Return the integer of an int64 with the bits of an unsigned one."""
    return number - 2**64 if number >= 2**63 else number
