"""The ids that may come next, and their logits: only the rows of the output layer that are needed are multiplied.

Shapes: R rows, E hidden width, V vocabulary, A ids that may come next.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .._cpu_caches import blocks_of, product_of_blocks, reading_pays
from .allowed import AllowedIds, AllowedTable
from .repacked_head import MAX_ROWS, RepackedRows, reads_weight_alone

if TYPE_CHECKING:
    from typing import Any

    from .decoder import Decoder

_FEW = 3
"""The most hidden states whose product reads a column-major weight in order."""


class Candidates(AllowedIds):
    """Ids that may come next, with the rows of the output layer that they need.

    Copies of the output layer's rows are made on first use and kept, so a change of the model's weights isn't seen.
    """

    def __init__(self, model: Decoder[Any], ids_A: Tensor, *, many: bool) -> None:
        super().__init__(ids_A.to(model.device))
        self.model = model
        # A copy of most of the vocabulary wouldn't pay.
        self.many = many

    @property
    def is_product(self) -> bool:
        """Whether the logits are the product of the hidden states with rows of a weight, and nothing else."""
        return not self.many and self._weight_AE is not None

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """Return the logits of the candidates, float32 [R, A]."""
        if self.many and len(hidden_RE) <= MAX_ROWS and self._repacked is not None:
            return self._repacked.logits(hidden_RE)
        if not self.many and self._weight_AE is not None:
            if len(hidden_RE) > _FEW and reading_pays(self._weight_AE):
                return product_of_blocks(hidden_RE, self._blocks)
            return F.linear(hidden_RE, self._weight_AE).float()
        return self.model.lm_head(hidden_RE).index_select(1, self.ids_A).float()

    @cached_property
    def _repacked(self) -> RepackedRows | None:
        """The output layer's rows repacked for a few hidden states; None where that isn't faster."""
        return self.model.repacked_head.rows(self.model.lm_head, self.ids_A)

    @cached_property
    def _weight_AE(self) -> Tensor | None:
        """The output layer's rows.

        None where the layer computes something other than the product with its weight, as an adapter does.
        """
        layer = self.model.lm_head
        if not reads_weight_alone(layer):
            return None
        weight_AE = layer.weight[self.ids_A]
        # On a CPU column-major, as the other layers are packed: faster for few rows.
        return weight_AE.t().contiguous().t() if weight_AE.device.type == "cpu" else weight_AE

    @cached_property
    def _blocks(self) -> tuple[Tensor, ...]:
        """The output layer's rows for several hidden states, each row in one piece of memory."""
        assert self._weight_AE is not None
        return blocks_of(self._weight_AE.contiguous())


class CandidateTable(AllowedTable[Candidates]):
    """The candidates of each state that rows of one model may be in."""

    def __init__(self, model: Decoder[Any]) -> None:
        super().__init__(model.config.vocab_size, lambda ids_A, many: Candidates(model, ids_A, many=many))
        self.model = model
        self._never_written: dict[Candidates, Candidates] = {}

    def never_written(self, text: Candidates) -> Candidates:
        """Return the ids besides ``text`` that the model may predict in text: special ones, and those without a name.

        Codes of pictures aren't among them.
        """
        if text not in self._never_written:
            is_text_V = torch.zeros(self.vocab_size, dtype=torch.bool)
            is_text_V[text.ids_A.cpu()] = True
            if self.model.config.vocabulary_map is not None:
                is_text_V[self.model.layout.code_to_id_Z.cpu()] = True
            self._never_written[text] = Candidates(self.model, (~is_text_V).nonzero()[:, 0], many=False)
        return self._never_written[text]
