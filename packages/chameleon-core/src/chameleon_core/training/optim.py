"""The optimizer: what decays, how the learning rate moves."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW

from ..model.layers import HeadNorm, RMSNorm
from .options import TrainingOptions

# The exponential decay reaches 0 at the last step by having this share of the peak taken off it all along. The paper
# says "exponential decay to 0" and no rate; a hundredth is what schedules usually end at.
EXPONENTIAL_END = 0.01

_WITHOUT_DECAY = (RMSNorm, HeadNorm, nn.Embedding)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of the parameters that train: those that decay, and those that don't.

    Decay holds for the matrices of linear layers, the output layer included. It spares norms and biases, as nearly all
    published code does, and the embeddings: decay makes them small, and the gradients behind the first norm large,
    against the very stability that this recipe is for (OLMo 2, arXiv 2501.00656). The Chameleon paper
    states a decay of 0.1 and no exception. The qk-norm's weights are matrices by shape and norms by nature, so the
    kind of the module decides and not the number of dimensions. A table tied to the output layer counts as embeddings.
    """
    decaying: list[nn.Parameter] = []
    sparing: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            spared = isinstance(module, _WITHOUT_DECAY) or name == "bias"
            (sparing if spared else decaying).append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": sparing, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, options: TrainingOptions) -> AdamW:
    """AdamW over the parameters of ``model`` that train, in one fused pass over each."""
    return AdamW(
        parameter_groups(model, options.weight_decay),
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.epsilon,
        fused=True,
    )


def learning_rate(step: int, options: TrainingOptions) -> float:
    """The rate of a step, counted from 0: linear to the peak at the end of the warm-up, then down to 0 after the last.

    "cosine" is half a wave; "exponential" falls by the same factor each step, shifted so that it ends at 0.
    """
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    if options.schedule == "cosine":
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return options.learning_rate * (EXPONENTIAL_END**progress - EXPONENTIAL_END) / (1 - EXPONENTIAL_END)
