"""Numbers on a GPU: those of ``transformers`` there, and those of a CPU.

Shapes: B batch, T length, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration
from chameleon_core.testing import make_model
from chameleon_core.training import LossSums, Objective, TokenDocument, TrainingOptions, collate
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig

# Float32 products in another order, over a few hundred terms.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
VQ_CONFIG = {"resolution": 4, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}
OPTIONS = TrainingOptions(steps=1, warmup_steps=0, dropout=0.0)


def peer_of(model: ChameleonForConditionalGeneration) -> Any:
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("extras", "vq_config")}
    config = transformers.ChameleonConfig(**fields, vq_config=VQ_CONFIG)
    peer: Any = transformers.ChameleonForConditionalGeneration(config).eval()
    peer.load_state_dict(model.state_dict(), strict=False)
    return peer.to(model.device)


def prompts(model: ChameleonForConditionalGeneration) -> Tensor:
    words = model.layout.text_allowed_V.nonzero()[:, 0]
    return words[torch.randint(len(words), (2, 9), generator=torch.Generator().manual_seed(0)).to(words.device)]


@torch.no_grad()
def test_logits_of_text_are_those_of_transformers(device: str) -> None:
    model = make_model().to(device)
    ids_BT = prompts(model)
    words_V = model.layout.text_allowed_V
    torch.testing.assert_close(
        model(ids_BT).logits[..., words_V], peer_of(model)(input_ids=ids_BT).logits[..., words_V], **TOLERANCE
    )


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_text_is_that_of_transformers(device: str, cache: str) -> None:
    model = make_model().to(device)
    ids_BT = prompts(model)
    mask_BT = torch.ones_like(ids_BT)
    found = model.generate(ids_BT, mask_BT, max_new_tokens=8, cache_implementation=cache)
    expected = peer_of(model).generate(input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=8, do_sample=False)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("rows", ["packed", "padded"])
def test_a_step_of_training_is_that_of_a_cpu(device: str, rows: Any) -> None:
    documents = [TokenDocument.of(str(length), list(range(3, 3 + length))) for length in (5, 12, 30)]
    results: list[tuple[LossSums, list[Tensor]]] = []
    for place in ("cpu", device):
        model = make_model().to(place)
        sums = Objective(model, OPTIONS)(collate(documents, 64, rows=rows).to(place))
        gradients = torch.autograd.grad(sums.total, list(model.parameters()))
        results.append((LossSums(*(each.cpu() for each in sums.detach())), [each.cpu() for each in gradients]))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)


@torch.no_grad()
def test_pictures_are_those_of_a_cpu(device: str) -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(ChameleonVQVAEConfig(**VQ_CONFIG)).eval()  # type: ignore[arg-type]
    pixels_BCHW = torch.rand(2, 3, 4, 4) * 2 - 1
    encoded = model.encode(pixels_BCHW)
    expected = model.decode(encoded.codes_Bhw)
    model.to(device)
    torch.testing.assert_close(
        model.encode(pixels_BCHW.to(device)).latents_BDhw.cpu(), encoded.latents_BDhw, **TOLERANCE
    )
    torch.testing.assert_close(model.decode(encoded.codes_Bhw.to(device)).cpu(), expected, **TOLERANCE)
