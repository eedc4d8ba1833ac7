"""The output layer in the memory layout that is fastest for a few hidden states, as decoding has them.

Shapes: R rows of hidden states, E hidden width, V vocabulary, A ids that may be chosen, G groups of J ids each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chameleon_backends import QuantizedLinear

from .._moved import moved_names

# Where repacking pays on a CPU (torch 2.13): for narrow layers with many ids, and as many rows as an engine often runs.
# Products of wide layers take nearly as long as before, and of a weight that fits the caches as long.
MAX_WIDTH = 512
MIN_ELEMENTS = 2**22
MAX_ROWS = 32
NUM_GROUPS = 16


@dataclass(frozen=True, slots=True)
class RepackedRows:
    """Rows of a weight, repacked column-major in groups.

    BLAS reads few long columns at the speed of the memory and many short rows at a fraction of it. Threads share the
    groups, where they wouldn't share the product of a single hidden state.
    """

    groups_GEJ: Tensor
    """Contiguous [G, E, J]; the last group is padded with zeros."""
    count: int
    """The number of rows, A, without the padding."""

    @classmethod
    def repack(cls, weight_AE: Tensor) -> RepackedRows:
        """Return a repacked copy of a weight."""
        padded_AE = F.pad(weight_AE, (0, 0, 0, -len(weight_AE) % NUM_GROUPS))
        groups_GEJ = padded_AE.view(NUM_GROUPS, -1, weight_AE.shape[1]).transpose(1, 2).contiguous()
        return cls(groups_GEJ, len(weight_AE))

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """Return the product with hidden states, [R, A]."""
        logits_GRJ = torch.bmm(hidden_RE.expand(NUM_GROUPS, -1, -1), self.groups_GEJ)
        return logits_GRJ.transpose(0, 1).flatten(1)[:, : self.count]


class RepackedHead:
    """The repacked copy of an output layer, kept from one generation to the next while its weight is unchanged."""

    def __init__(self) -> None:
        # One tuple, replaced as a whole, because two threads may generate at the same time: the weight's checksums, the
        # indices of the rows and their repacked copy.
        self._kept: tuple[Tensor, Tensor, RepackedRows] | None = None

    @torch.no_grad()
    def rows(self, layer: nn.Module, rows_A: Tensor) -> RepackedRows | None:
        """Return these rows of ``layer``'s weight repacked, or None where repacking doesn't pay.

        A weight may change in ways that leave no trace (``weight.data``), so each call multiplies it with a fixed
        vector and compares the products with those of the weight that was copied.
        """
        if type(layer) is not nn.Linear or not reads_weight_alone(layer) or not _pays(layer.weight):
            return None
        checksums_V = layer.weight @ torch.arange(layer.in_features).cos()
        kept = self._kept
        if kept is None or not (torch.equal(kept[0], checksums_V) and torch.equal(kept[1], rows_A)):
            kept = self._kept = (checksums_V, rows_A, RepackedRows.repack(layer.weight[rows_A]))
        return kept[2]


def reads_weight_alone(layer: nn.Module) -> bool:
    """Return whether a layer's output is the product with its ``weight`` and nothing else.

    It isn't where a subclass, an adapter that wraps the layer, a hook or a bias adds to it or replaces it.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    changed = any(hooks) or "forward" in vars(layer) or getattr(layer, "bias", None) is not None
    return not changed and type(layer).forward in (nn.Linear.forward, QuantizedLinear.forward)


def _pays(weight_VE: Tensor) -> bool:
    return (
        weight_VE.device.type == "cpu"
        and weight_VE.dtype == torch.float32
        and weight_VE.shape[1] <= MAX_WIDTH
        and weight_VE.numel() >= MIN_ELEMENTS
    )


if not TYPE_CHECKING:
    __getattr__ = moved_names(
        __name__,
        {
            "MOST_ROWS": "chameleon_core.generation.repacked_head:MAX_ROWS",
            "PIECES": "chameleon_core.generation.repacked_head:NUM_GROUPS",
            "SMALLEST": "chameleon_core.generation.repacked_head:MIN_ELEMENTS",
            "TurnedHead": "chameleon_core.generation.repacked_head:RepackedHead",
            "TurnedRows": "chameleon_core.generation.repacked_head:RepackedRows",
            "WIDEST": "chameleon_core.generation.repacked_head:MAX_WIDTH",
        },
    )
