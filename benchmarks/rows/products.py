"""The matrix products of a step alone, without anything between them: what a small model can't do without.

Shapes: M rows of hidden states, one for each branch of guidance, O outputs, I inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .row import Side, milliseconds

STEPS = 20


def matrix_products(model: Any, branches: int) -> Side:
    """Return the milliseconds of the products of a step that writes a picture's code.

    Layers that read the same hidden states are one product, and of the output layer only the codes' rows are
    multiplied, in the column-major order that is fastest for few rows.
    """
    weights_IO: list[Tensor] = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for group in (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        ):
            weights_IO.append(torch.cat([each.weight.detach() for each in group]).t().contiguous())
    weights_IO.append(model.lm_head.weight.detach()[model.layout.code_to_id_Z].t().contiguous())
    inputs_MI = [torch.ones(branches, weight_IO.shape[0], dtype=weight_IO.dtype) for weight_IO in weights_IO]

    @torch.inference_mode()
    def steps() -> None:
        for _ in range(STEPS):
            for input_MI, weight_IO in zip(inputs_MI, weights_IO, strict=True):
                torch.mm(input_MI, weight_IO)

    return milliseconds(steps, per=STEPS)
