"""The recipe: its published values, what decays, how the learning rate moves."""

from __future__ import annotations

import itertools

import pytest
from torch import nn

from chameleon_core import ConfigError
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import TrainingOptions, build_optimizer, learning_rate, parameter_groups

PRETRAINING = TrainingOptions.pretraining(steps=10_000)


def test_pretraining_is_as_published() -> None:
    options = PRETRAINING
    assert options.betas == (0.9, 0.95)
    assert options.epsilon == 1e-5
    assert options.learning_rate == 1e-4
    assert options.warmup_steps == 4000
    assert options.schedule == "exponential"
    assert options.weight_decay == 0.1
    assert options.gradient_clip == 1.0
    assert options.z_loss == 1e-5
    assert options.sequence_length == 4096
    assert options.dropout == 0.1


def test_finetuning_is_as_published() -> None:
    options = TrainingOptions.finetuning(steps=100)
    assert options.learning_rate == 1e-5
    assert options.schedule == "cosine"
    assert options.weight_decay == 0.1
    assert options.batch_size == 128
    assert options.sequence_length == 4096
    assert options.dropout == 0.05
    assert options.z_loss == 1e-5


def test_picture_rows_train_at_the_published_rate() -> None:
    assert TrainingOptions.picture_rows(steps=100).learning_rate == 1e-3


def test_a_preset_takes_changes() -> None:
    assert TrainingOptions.finetuning(steps=100, dropout=0.0, batch_size=4).batch_size == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"warmup_steps": 11}, "warmup_steps must be at most steps"),
        ({"micro_batch_size": 65}, "micro_batch_size must be at most batch_size"),
        ({"dropout": 1.0}, "dropout"),
        ({"schedule": "linear"}, r"allowed: \['exponential', 'cosine'\]"),
    ],
)
def test_impossible_options_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**{"steps": 10, "warmup_steps": 0, **changes})


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_one_group_and_only_matrices_of_linear_layers_decay(tied: bool) -> None:
    model = make_model(make_config(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, sparing = ([names.pop(id(parameter)) for parameter in group["params"]] for group in groups_of(model))
    assert not names
    assert all(name.endswith(("_proj.weight", "lm_head.weight")) for name in decaying)
    assert all("norm" in name or name.endswith("bias") or "embed_tokens" in name for name in sparing)
    assert ("lm_head.weight" in decaying) is not tied


def groups_of(model: nn.Module) -> list[dict[str, object]]:
    decaying, sparing = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], sparing["weight_decay"]) == (0.1, 0.0)
    return [decaying, sparing]


def test_what_doesnt_train_is_in_no_group() -> None:
    model = make_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    parameters = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert all(parameter is not model.model.embed_tokens.weight for parameter in parameters)


def test_the_optimizer_has_the_recipes_numbers() -> None:
    optimizer = build_optimizer(make_model(), PRETRAINING)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.defaults["eps"] == 1e-5
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize("schedule", ["exponential", "cosine"])
def test_the_rate_rises_in_a_line_to_its_peak_and_falls_to_zero(schedule: str) -> None:
    options = TrainingOptions(steps=100, warmup_steps=10, schedule=schedule, learning_rate=1.0)
    rates = [learning_rate(step, options) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0)


def test_halfway_a_cosine_is_at_half_the_peak_and_an_exponential_at_the_mean_by_ratio() -> None:
    options = TrainingOptions(steps=100, warmup_steps=0, schedule="cosine", learning_rate=1.0)
    assert learning_rate(50, options) == pytest.approx(0.5)
    # (0.1 - 0.01) / 0.99, as 0.1 is halfway between 1 and 0.01 by ratio.
    assert learning_rate(50, options.replace(schedule="exponential")) == pytest.approx(0.09 / 0.99)
