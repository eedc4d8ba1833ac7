"""Weights of layers that read the same hidden states, side by side in memory, so that one product reads all of them.

Each weight keeps a storage of its own, of its own size, and is contiguous: it is saved, copied, trained and moved like
any other. Only the addresses of the storages follow each other, and one more tensor over the same memory is the weight
of all. So there is no second copy, and a change of a weight is a change of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..config import ChameleonConfig

MAX_ELEMENTS = 2**24
"""The most weights of all layers that are joined: beyond 64 MiB the time goes into reading them, in however many calls.

Weights that are mapped from a file are then left there.
"""
_ALIGNMENT = 64
"""Bytes: where storages of torch begin, too."""


class JoinsWeights(nn.Module):
    """A module that lays some of its parameters side by side when it is made, copied or moved.

    Never at another time: whoever holds a tensor over the memory of a weight, as ``state_dict`` gives it, expects that
    it stays that of the weight. Only a new weight, such as a cast or copied one, is nobody's yet.
    """

    groups: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """The names of the parameters that lie side by side, in their order."""
    _joining_pays: bool = False
    _joined: Mapping[tuple[str, ...], Tensor] = MappingProxyType({})

    def join_weights(self, *, pays: bool | None = None) -> None:
        """Move the parameters of each group into one piece of memory, where they are plain weights on a CPU.

        ``pays`` is whether that pays in the model that the module belongs to; None for what was said before.
        """
        if pays is not None:
            self._joining_pays = pays
        # Groups that are joined already stay where they are.
        kept = {names: joined for names, joined in self._joined.items() if self._is_whole(names)}
        found = {names: self._plain(names) for names in self.groups if names not in kept} if self._joining_pays else {}
        self._joined = kept | {names: _join(weights) for names, weights in found.items() if weights}

    def in_order(self, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        """Return the weights of a group as one tensor over all of them, or each where they aren't joined.

        The tensors share the memory of the parameters.
        """
        if names in self._joined and self._is_whole(names):
            return (self._joined[names],)
        return tuple(self.get_parameter(name).detach() for name in names)

    def _is_whole(self, names: Sequence[str]) -> bool:
        """Return whether the parameters of a group are still, in their order, the parts of what they were joined to."""
        found = dict(self.named_parameters())
        weights = [found[name] for name in names if name in found]
        return len(weights) == len(names) and _are_parts(weights, self._joined[tuple(names)])

    def _plain(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Return the parameters of a group; none where one is missing, or more than plain numbers in memory."""
        found = dict(self.named_parameters())
        weights = [found[name] for name in names if name in found]
        first = next(iter(weights), None)
        joinable = first is not None and all(
            _is_plain(weight) and weight.dtype == first.dtype and weight.shape[1:] == first.shape[1:]
            for weight in weights
        )
        return weights if joinable and len(weights) == len(names) else []

    def _addresses(self) -> dict[str, int]:
        return {name: _address(weight) for name, weight in self.named_parameters()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self._addresses()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        after = self._addresses()
        if all(before.get(name) != address for name, address in after.items()):
            self.join_weights()
        return self

    def __copy__(self) -> Self:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)  # the weights, too, are those of the original, and stay where they are
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_joined"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        self.join_weights()


def joining_pays(config: ChameleonConfig) -> bool:
    """Return whether the layers of a model are so small that their calls take a good part of the time."""
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    widths = heads * config.head_dim + 3 * config.intermediate_size
    return config.num_hidden_layers * config.hidden_size * widths <= MAX_ELEMENTS


def join_weights(model: nn.Module) -> None:
    """Join the weights of all modules of a model whose weights nobody else has yet."""
    for module in model.modules():
        if isinstance(module, JoinsWeights):
            module.join_weights()


@torch.no_grad()
def _join(weights: Sequence[nn.Parameter]) -> Tensor:
    """Move parameters into one piece of memory and return the tensor over all of it."""
    sizes = [weight.nbytes for weight in weights]
    dtype, shape = weights[0].dtype, (-1, *weights[0].shape[1:])
    with torch.inference_mode(False):
        memory = bytearray(sum(sizes) + _ALIGNMENT)
        start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % _ALIGNMENT
        count = sum(weight.numel() for weight in weights)
        joined = torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(shape)
        for weight, size in zip(weights, sizes, strict=True):
            own = torch.frombuffer(memory, dtype=dtype, count=weight.numel(), offset=start).view(weight.shape)
            weight.data = own.copy_(weight)
            start += size
    return joined


def _are_parts(weights: Sequence[Tensor], joined: Tensor) -> bool:
    """Return whether weights are, in their order, all of a joined tensor."""
    address = joined.data_ptr()
    for weight in weights:
        same_kind = type(weight) is nn.Parameter and weight.dtype == joined.dtype and weight.device == joined.device
        if not same_kind or weight.shape[1:] != joined.shape[1:] or not weight.is_contiguous():
            return False
        if weight.data_ptr() != address:
            return False
        address += weight.nbytes
    return address == joined.data_ptr() + joined.nbytes


def _is_plain(weight: nn.Parameter) -> bool:
    """Return whether a parameter is numbers in the memory of this process, of which each storage can begin anywhere."""
    return (
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.layout == torch.strided
        and weight.is_floating_point()
        and weight.is_contiguous()
        and not weight.is_inference()
        and not weight.is_shared()  # type: ignore[no-untyped-call]  # torch's
        and not weight.is_pinned()
        and weight.nbytes > 0
        and weight.nbytes % _ALIGNMENT == 0
    )


def _address(weight: Tensor) -> int:
    """Return where a weight is; 0 where that can't be asked."""
    return weight.data_ptr() if type(weight) is nn.Parameter and weight.device.type == "cpu" else 0
