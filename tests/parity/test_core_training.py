"""Training beside independent implementations: the loss of transformers, the adapters of peft.

Shapes: B rows, T positions, P targets, V vocabulary, E hidden width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration, ConfigError
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import (
    Objective,
    TokenDocument,
    Trainer,
    TrainingOptions,
    add_lora,
    collate,
    target_loss,
)

# Float32 on both sides: the bound that the project promises.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
OPTIONS = TrainingOptions(steps=4, warmup_steps=0, batch_size=4, dropout=0.0, z_loss=0.0, learning_rate=1e-2)

rows = pytest.mark.parametrize("rows", ["packed", "padded"])


def text_documents() -> list[TokenDocument]:
    """Documents of different lengths, some of whose ids aren't learned."""
    words = torch.nonzero(make_model().layout.text_allowed_V)[:, 0].numpy()
    random = np.random.default_rng(0)
    lengths = (9, 3, 14, 6)
    return [TokenDocument(str(n), random.choice(words, n), random.random(n) < 0.7) for n in lengths]


def make_peer(model: ChameleonForConditionalGeneration) -> Any:
    config = {name: value for name, value in model.config.to_dict().items() if name not in ("extras", "vq_config")}
    vq_config = {"resolution": 4, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}
    peer: Any = transformers.ChameleonForConditionalGeneration(
        transformers.ChameleonConfig(**config, vq_config=vq_config)
    ).eval()
    missing, unexpected = peer.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(".vqmodel." in name for name in missing)
    return peer


def peer_batch(documents: list[TokenDocument]) -> dict[str, Tensor]:
    """The documents padded on the right, with labels that aren't shifted, as that library takes them."""
    width = max(map(len, documents))
    input_ids = torch.ones(len(documents), width, dtype=torch.int64)
    labels = torch.full_like(input_ids, -100)
    for index, document in enumerate(documents):
        ids_T = torch.from_numpy(document.ids)
        input_ids[index, : len(document)] = ids_T
        assert document.trained is not None
        labels[index, : len(document)] = ids_T.masked_fill(~torch.from_numpy(document.trained), -100)
    mask = (torch.arange(width) < torch.tensor([[len(document)] for document in documents])).long()
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


@rows
def test_the_loss_on_text_is_that_of_transformers_under_its_picture_mask(rows: Any) -> None:
    model = make_model()
    batch = collate(text_documents(), 32, rows=rows)
    hidden_BTE = model.model(
        batch.input_ids, position_ids=batch.position_ids, document_ids=batch.document_ids
    ).last_hidden_state
    # That library sets the logits of picture ids to the lowest number, which leaves the other rows of the layer.
    kept_V = model.layout.id_to_code_V < 0
    place_of_V = kept_V.cumsum(dim=0) - 1
    mask_BT = batch.targets >= 0
    found = target_loss(
        hidden_BTE[mask_BT], model.lm_head.weight[kept_V], place_of_V[batch.targets[mask_BT]], z_loss=0.0
    )
    expected = make_peer(model)(**peer_batch(text_documents())).loss
    torch.testing.assert_close(found.total / batch.num_targets, expected, **TOLERANCE)


@rows
def test_loss_and_gradients_are_those_of_the_peers_transformer_without_the_mask(rows: Any) -> None:
    model = make_model()
    peer = make_peer(model)
    batch = collate(text_documents(), 32, rows=rows)
    sums = Objective(model, OPTIONS)(batch)
    (sums.total / batch.num_targets).backward()

    inputs = peer_batch(text_documents())
    labels = inputs.pop("labels")
    logits_BTV = peer.lm_head(peer.model(**inputs).last_hidden_state)
    expected = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    expected.backward()

    torch.testing.assert_close(sums.total / batch.num_targets, expected, **TOLERANCE)
    of_peer = dict(peer.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, of_peer[name].grad, **TOLERANCE, msg=lambda text, name=name: name)


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft")


def test_adapters_train_alone_save_load_and_merge(peft: Any, tmp_path: Path) -> None:
    model = make_model()
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids_BT = torch.arange(20).reshape(2, 10)
    before_BTV = model(ids_BT).logits

    adapted = add_lora(model, rank=4)
    assert torch.equal(model(ids_BT).logits, before_BTV)
    Trainer(model, text_documents(), OPTIONS, tmp_path / "run").run(draw_curves=False)
    trained_BTV = model.eval()(ids_BT).logits
    assert not torch.equal(trained_BTV, before_BTV)
    for name, tensor in model.state_dict().items():
        assert "lora_" in name or torch.equal(tensor, frozen[name.replace(".base_layer", "")])

    adapted.save_pretrained(tmp_path / "adapters")
    assert (tmp_path / "adapters" / "adapter_model.safetensors").exists()
    loaded = peft.PeftModel.from_pretrained(make_model(), tmp_path / "adapters")
    torch.testing.assert_close(loaded(ids_BT).logits, trained_BTV, rtol=0, atol=0)

    merged = adapted.merge_and_unload()
    assert isinstance(merged, ChameleonForConditionalGeneration)
    assert merged.state_dict().keys() == frozen.keys()
    torch.testing.assert_close(merged(ids_BT).logits, trained_BTV, **TOLERANCE)


def test_a_run_with_adapters_goes_on_from_their_checkpoint_alone(peft: Any, tmp_path: Path) -> None:
    def train(folder: Path, killed_at: int | None = None) -> dict[str, Tensor]:
        def on_step(step: int) -> None:
            if step == killed_at:
                raise KeyboardInterrupt

        model = make_model()
        torch.manual_seed(0)
        add_lora(model, rank=2, dropout=0.1, targets=["q_proj", "v_proj"])
        options = OPTIONS.replace(save_every=2)
        Trainer(model, text_documents(), options, folder, on_step=on_step).run(draw_curves=False)
        return model.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", killed_at=3)
    resumed = train(tmp_path / "killed")
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name
    (weights,) = (tmp_path / "whole" / "checkpoint").glob("weights-*")
    assert weights.stat().st_size < 4 * sum(parameter.numel() for parameter in make_model().parameters()) / 2


def test_the_output_layer_is_no_target_of_adapters() -> None:
    with pytest.raises(ConfigError, match="LoRA's targets must be among q_proj"):
        add_lora(make_model(make_config()), targets=["lm_head"])
