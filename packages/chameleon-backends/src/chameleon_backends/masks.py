"""Which keys a query sees, as one boolean mask: the contract's rules in code.

Shapes: B batch, T query length, S key length.
"""

from __future__ import annotations

import torch

from .attention import AttentionSpec


def visible_keys(spec: AttentionSpec) -> torch.Tensor:
    """``visible_BTS``: bool on ``spec.device``, True where the query sees the key. B is 1 where all rows are alike.

    Rules as in ``AttentionBackend``. Reads no value back from the device.
    """
    key_S = torch.arange(spec.key_length, device=spec.device)
    query_T = torch.arange(spec.key_length - spec.query_length, spec.key_length, device=spec.device)
    distance_TS = query_T[:, None] - key_S
    visible_BTS = torch.ones_like(distance_TS, dtype=torch.bool)[None]
    if spec.causal:
        visible_BTS = visible_BTS & (distance_TS >= 0)
    if spec.sliding_window is not None:
        visible_BTS = visible_BTS & (distance_TS.abs() < spec.sliding_window)
    if spec.key_start_B is not None:
        visible_BTS = visible_BTS & (key_S >= spec.key_start_B[:, None, None])
    if spec.key_end_B is not None:
        visible_BTS = visible_BTS & (key_S < spec.key_end_B[:, None, None])
    if spec.document_ids_BS is not None:
        query_documents_BT = spec.document_ids_BS[:, -spec.query_length :]
        visible_BTS = visible_BTS & (query_documents_BT[:, :, None] == spec.document_ids_BS[:, None, :])
    return visible_BTS
