"""Sizes in a config that the weights' files can't hold are refused before memory or work is spent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from chameleon_core import ChameleonCoreError, ChameleonForConditionalGeneration
from chameleon_core.testing import make_model

BIG = 2**31 - 2


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 2**63},
        {"vocab_size": BIG},
        {"intermediate_size": BIG},
        {"intermediate_size": BIG, "hidden_size": 2**30},
        {"hidden_size": 2**64, "num_attention_heads": 2**60},
        {"num_attention_heads": 10**30},
        {"max_position_embeddings": 10**400},
        {"rope_scaling": {"type": "linear", "factor": 1e300}},
        {"vq_config": {"resolution": 10**30}},
        {"vocabulary_map": {"a": 10**30}},
    ],
    ids=lambda fields: next(iter(fields)),
)
@pytest.mark.parametrize("weights", ["its own", "of another model"])
def test_sizes_that_no_file_holds_cost_nothing(tmp_path: Path, fields: dict[str, Any], weights: str) -> None:
    make_model().save_pretrained(tmp_path)
    if weights == "of another model":
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(b'"model.', b'"other.'))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    began = time.process_time()
    with pytest.raises(ChameleonCoreError):
        _ = ChameleonForConditionalGeneration.from_pretrained(tmp_path).layout
    assert time.process_time() - began < 2
