"""Tensors that are divided among ranks, each of which has a part: ``DTensor`` of ``torch.distributed.tensor``.

That module takes about a second to import, so that a single process, which has no such tensors, never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


def is_divided(tensor: Tensor) -> bool:
    """Return whether this process has only a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def any_divided(tensors: Iterable[Tensor]) -> bool:
    """Return whether this process has only a part of one of these tensors."""
    return any(map(is_divided, tensors))


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    return tensor.to_local() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, of whose parts all ranks must ask for it."""
    return tensor.full_tensor() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def gathered(named: Mapping[str, Tensor], *, keeps: bool) -> dict[str, Tensor]:
    """Return whole tensors by name, on the CPU. All ranks must call this; one that doesn't keep them gets none."""
    state = {}
    for name, tensor in named.items():
        found = whole(tensor)
        if keeps:
            state[name] = found.cpu()
    return state


def placed_as(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor that every rank has, divided as ``like`` is."""
    if not is_divided(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    # No rank sends its own to the others.
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
