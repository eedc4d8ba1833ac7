"""The methods that users of ``transformers`` know."""

from __future__ import annotations

import pytest
import torch

from chameleon_core import ChameleonModel, ConfigError
from chameleon_core.testing import make_config, make_model

IDS = torch.tensor([[40, 41, 42]])


def test_weights_are_tied_only_where_the_config_says_so() -> None:
    model = make_model()
    before = model(IDS).logits
    model.tie_weights()
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert torch.equal(model(IDS).logits, before)
    tied = make_model(make_config(tie_word_embeddings=True))
    tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.clone())
    tied.tie_weights()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_embeddings_are_set_where_they_are() -> None:
    model = make_model()
    embeddings, head = torch.nn.Embedding(64, 32), torch.nn.Linear(32, 64, bias=False)
    model.set_input_embeddings(embeddings)
    model.set_output_embeddings(head)
    assert model.model.embed_tokens is embeddings is model.get_input_embeddings()
    assert model.lm_head is head is model.get_output_embeddings()
    bare = ChameleonModel(make_config())
    bare.set_input_embeddings(embeddings)
    assert bare.embed_tokens is embeddings
    assert bare.get_output_embeddings() is None
    with pytest.raises(ConfigError, match="ChameleonModel has no output layer"):
        bare.set_output_embeddings(head)
