"""What the parity tests share: the same model on both sides."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration
from chameleon_core.testing import make_config, make_model

# Models this small lose time to more threads than one.
torch.set_num_threads(1)

# Four codes a picture, and the smallest that the peer's group norms allow.
VQ_CONFIG = {
    "resolution": 4,
    "channel_multiplier": [1, 1],
    "base_channels": 32,
    "num_res_blocks": 1,
    "embed_dim": 8,
    "latent_channels": 8,
    "num_embeddings": 16,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "multi-head": {},
    "grouped": {"num_key_value_heads": 2},
    "multi-query": {"num_key_value_heads": 1},
    "swin_norm": {"swin_norm": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "all at once": {
        "num_key_value_heads": 2,
        "swin_norm": True,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "rope_theta": 500.0,
        "rms_norm_eps": 1e-3,
        "hidden_act": "gelu",
        "model_parallel_size": 2,
    },
}


class Pair(NamedTuple):
    """The same random weights on both sides."""

    ours: ChameleonForConditionalGeneration
    theirs: Any

    def masked(self, logits: Tensor) -> Tensor:
        """Our raw logits with the codes at the dtype's lowest number, as the peer's forward leaves them."""
        return logits.index_fill(-1, self.ours.layout.code_to_id_Z, torch.finfo(logits.dtype).min)


@pytest.fixture(params=CONFIGS)
def changes(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One of ``CONFIGS``: fields that differ from the tiny model's."""
    return CONFIGS[request.param]


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """Builds a pair from fields of ``ChameleonConfig``."""

    def build(*, attn_implementation: str = "sdpa", **fields: Any) -> Pair:
        config = make_config(**{"vq_config": VQ_CONFIG, **fields})
        ours = make_model(config, attn_implementation=attn_implementation)
        # A copy, for the peer changes the dicts that it is given.
        peer_config = transformers.ChameleonConfig.from_dict(copy.deepcopy(config.to_dict()))
        peer_config._attn_implementation = attn_implementation
        # The peer draws an image tokenizer of its own, whose codes must not differ from run to run.
        torch.manual_seed(0)
        theirs = transformers.ChameleonForConditionalGeneration(peer_config).eval()
        missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
        assert unexpected == []
        assert all(name.startswith("model.vqmodel.") for name in missing)
        return Pair(ours, theirs)

    return build
