"""The state of a run: what doesn't fit is refused before the model or the optimizers change."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_vq import ChameleonVQVAEConfig, FileFormatError
from chameleon_vq.model import ChameleonVQVAE
from chameleon_vq.training import DivergenceError, TensorPictures, TrainingOptions, VQTrainer

CONFIG = ChameleonVQVAEConfig(
    resolution=16,
    base_channels=32,
    channel_multiplier=[1, 2],
    num_res_blocks=1,
    latent_channels=4,
    embed_dim=4,
    num_embeddings=16,
    attn_type="none",
)
OPTIONS = TrainingOptions(
    steps=1,
    batch_size=2,
    kmeans_pictures=0,
    warmup_steps=1,
    discriminator_weight=0.1,
    discriminator_channels=4,
    discriminator_layers=1,
)


def make_model() -> ChameleonVQVAE:
    torch.manual_seed(0)
    return ChameleonVQVAE(CONFIG)


@pytest.fixture(scope="module")
def pictures() -> TensorPictures:
    torch.manual_seed(0)
    return TensorPictures(torch.rand(4, 3, 16, 16) * 2 - 1)


@pytest.fixture(scope="module")
def state(pictures: TensorPictures, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("run")
    VQTrainer(make_model(), OPTIONS, folder=folder).fit(pictures)
    return (folder / "checkpoint.pt").read_bytes()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no usage": (lambda state: state.pop("usage"), "missing required field `usage`"),
    "more": (lambda state: state.update(other=1), "unknown field `other`"),
    "a negative step": (lambda state: state.update(step=-1), "step"),
    "a later step": (lambda state: state.update(step=2), "of step 2 of a run of 1 steps"),
    "no time": (lambda state: state.update(seconds=float("nan")), "seconds"),
    "options": (lambda state: state.update(options=0), "options"),
    "an option": (lambda state: state["options"].update(steps="many"), "TrainingOptions.steps"),
    "tensors in options": (lambda state: state["options"].update(seed=torch.zeros(2)), "TrainingOptions.seed"),
    "a name": (lambda state: state["model"].update({("a", 1): torch.zeros(1)}), "Expected `str`"),
    "another model": (lambda state: state["model"].popitem(), "another model: it lacks"),
    "a dtype": (lambda state: state["model"].update({min(state["model"]): torch.zeros(1).int()}), "torch.int32"),
    "usage": (lambda state: state.update(usage=torch.zeros(2, 16, dtype=torch.int64)), "usage is"),
    "a generator": (lambda state: state["random"].update(cpu=0), "Expected `Tensor`, got `int`"),
    "no discriminator": (lambda state: state.pop("discriminator"), "has no discriminator"),
    "its optimizer": (lambda state: state["discriminator_optimizer"]["state"].update({99: {}}), "missing required"),
    "NaN": (lambda state: state["model"][min(state["model"])].fill_(float("nan")), "holds NaN or infinity"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_that_does_not_fit_changes_nothing(
    name: str, state: bytes, pictures: TensorPictures, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(state)
    content = torch.load(path, weights_only=True)
    change, message = CHANGES[name]
    change(content)
    torch.save(content, path)
    model = make_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trainer = VQTrainer(model, OPTIONS, folder=tmp_path)
    with pytest.raises(FileFormatError, match=message):
        trainer.fit(pictures)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not trainer.optimizer.state
    assert trainer.step == 0


def test_a_gradient_that_is_not_finite_changes_no_weight(pictures: TensorPictures) -> None:
    model = make_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.encoder.conv_in.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergenceError, match="the gradient's norm of step 0 is"):
        VQTrainer(model, OPTIONS).fit(pictures)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in parameters.items())


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupted_run_is_saved_after_its_step_and_ends_as_another(
    pictures: TensorPictures, tmp_path: Path, number: int, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS.replace(steps=4)
    whole = make_model()
    VQTrainer(whole, options).fit(pictures)
    trainer = VQTrainer(make_model(), options, folder=tmp_path)
    step = trainer._step

    def interrupted(pixels_BCHW: torch.Tensor) -> dict[str, Any]:
        if trainer.step == 1:
            os.kill(os.getpid(), number)
        return step(pixels_BCHW)

    monkeypatch.setattr(trainer, "_step", interrupted)
    with pytest.raises(raised):
        trainer.fit(pictures)
    resumed = VQTrainer(make_model(), options, folder=tmp_path)
    resumed._resume()
    assert resumed.step == 2
    resumed.fit(pictures)
    state = whole.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())
