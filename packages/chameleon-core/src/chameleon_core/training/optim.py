"""The optimizer: which parameters decay, and the schedule of the learning rate."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW

from ..model.layers import HeadNorm, RMSNorm
from .options import TrainingOptions

# The exponential decay falls to this share of the peak and is shifted so that it ends at 0. The paper states an
# "exponential decay to 0" without a rate; schedules usually end at a hundredth.
EXPONENTIAL_END = 0.01

_WITHOUT_DECAY = (RMSNorm, HeadNorm, nn.Embedding)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups of the parameters that train: those with weight decay and those without.

    The matrices of linear layers decay, the output layer included. Norms and biases don't, as in nearly all published
    code, and neither do embeddings: decay makes them small and the gradients before the first norm large, which costs
    the stability that this recipe aims at (OLMo 2, arXiv 2501.00656). The Chameleon paper states a decay of 0.1 and no
    exception. The weights of the qk-norm are matrices, so the class of the module decides and not the number of
    dimensions. A table that is tied to the output layer counts as embeddings.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            exempt = isinstance(module, _WITHOUT_DECAY) or name == "bias"
            (undecayed if exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, options: TrainingOptions) -> AdamW:
    """Return a fused AdamW over the parameters of ``model`` that train."""
    return AdamW(
        parameter_groups(model, options.weight_decay),
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.epsilon,
        fused=True,
    )


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up to the peak, then decay to 0 after the last.

    "cosine" decays along half a wave; "exponential" by the same factor each step, shifted so that it ends at 0.
    """
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    if options.schedule == "cosine":
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return options.learning_rate * (EXPONENTIAL_END**progress - EXPONENTIAL_END) / (1 - EXPONENTIAL_END)
