"""The state of a run: what doesn't fit is refused before the model or the optimizer changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from chameleon_core import ChameleonCoreError, ChameleonForConditionalGeneration, FileFormatError, WeightsError
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import TokenDocument, Trainer, TrainingOptions

OPTIONS = TrainingOptions(steps=2, batch_size=1, warmup_steps=0, sequence_length=8, save_every=1)


def trainer(folder: Path, model: ChameleonForConditionalGeneration | None = None) -> Trainer:
    documents = [TokenDocument.of("a", [1, 2, 3, 4])]
    return Trainer(model or make_model(make_config(num_hidden_layers=1)), documents, OPTIONS, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def stop(step: int) -> None:
        raise KeyboardInterrupt

    run = trainer(tmp_path)
    run.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        run.run(draw_curves=False)
    return tmp_path


def refused(folder: Path, kind: type[ChameleonCoreError], match: str) -> None:
    """Check that the folder's state is refused, and that nothing of it is applied."""
    model = make_model(make_config(num_hidden_layers=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = trainer(folder, model)
    with pytest.raises(kind, match=match):
        run.run(draw_curves=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not run.optimizer.state


def _moments(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    moments: dict[str, torch.Tensor] = state["optimizer"]["state"][0]
    return moments


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no optimizer": (lambda state: state.pop("optimizer"), "missing required field `optimizer`"),
    "more": (lambda state: state.update(other=1), "unknown field `other`"),
    "a number": (lambda state: state.update(optimizer=0.5), "Expected `object`, got `float`"),
    "another key": (lambda state: state["optimizer"]["state"].update(a=1), "Expected `int`, got `str`"),
    "another parameter": (lambda state: state["optimizer"]["state"].update({99: _moments(state)}), "parameter 99"),
    "fewer groups": (lambda state: state["optimizer"]["param_groups"].pop(), "groups of"),
    "another order": (lambda state: state["optimizer"]["param_groups"][0]["params"].reverse(), "groups of"),
    "another shape": (lambda state: _moments(state).update(exp_avg=torch.zeros(3)), r"exp_avg, is torch.float32 \[3\]"),
    "another dtype": (lambda state: _moments(state).update(step=torch.tensor(1)), "step, is torch.int64"),
    "without memory": (lambda state: _moments(state).update(step=torch.zeros((), device="meta")), "plain tensor"),
    "a parameter": (
        lambda state: state["generators"].update(cpu=torch.nn.Parameter(torch.zeros(3))),
        "generator is a Parameter",
    ),
    "sparse": (lambda state: _moments(state).update(exp_avg=torch.zeros(2, 2).to_sparse()), "plain tensor"),
    "NaN": (lambda state: _moments(state)["exp_avg"].fill_(float("nan")), "holds NaN or infinity"),
    "a negative square": (lambda state: _moments(state)["exp_avg_sq"].fill_(-1), "squares < 0"),
    "later": (lambda state: _moments(state)["step"].fill_(7), "of step 7, expected 0…1"),
    "no bytes": (lambda state: state["generators"].update(cpu=torch.zeros(0, dtype=torch.uint8)), "generator"),
    "another generator": (
        lambda state: state["generators"].update(cpu=torch.full_like(state["generators"]["cpu"], 255)),
        "isn't the state of a random generator",
    ),
    "no generators": (lambda state: state.update(generators=None), "Expected `object`, got `null`"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_that_does_not_fit_changes_nothing(folder: Path, name: str) -> None:
    (path,) = (folder / "checkpoint").glob("state-*.pt")
    state = torch.load(path, weights_only=True)
    change, message = CHANGES[name]
    change(state)
    torch.save(state, path)
    refused(folder, FileFormatError, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "../weights-1.safetensors"}, "weights"),
        ({"weights": "weights-../../a.safetensors"}, "weights"),
        ({"weights": "weights-1.safetensors\n"}, "weights"),
        ({"state": "state-\u00e9.pt"}, "state"),
        ({"state": "state-1.pt"}, "weren't saved together"),
        ({"progress": {"step": -1}}, "step"),
        ({"progress": {"step": 2**70}}, "step"),
        ({"progress": {"step": 3}}, "of step 3 of a run of 2 steps"),
        ({"progress": {"step": 1, "seconds": -1}}, "seconds"),
        ({"progress": {"step": 1, "num_tokens": True}}, "num_tokens"),
        ({"more": 1}, "more"),
    ],
    ids=ascii,
)
def test_a_pointer_that_names_no_save_of_the_run_is_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    path = folder / "checkpoint" / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    refused(folder, FileFormatError, message)


@pytest.mark.parametrize("fault", ["NaN", "another type", "another shape"])
def test_weights_that_do_not_fit_change_nothing(folder: Path, fault: str) -> None:
    (path,) = (folder / "checkpoint").glob("weights-*")
    weights = safetensors.torch.load_file(path)
    name = max(weights)
    changed = {"NaN": weights[name] * float("nan"), "another type": weights[name].half()}
    weights[name] = changed.get(fault, torch.zeros(2))
    safetensors.torch.save_file(weights, path)
    refused(folder, WeightsError, f"{fault}.*{name}" if fault != "NaN" else f"NaN or infinity: {name}")
