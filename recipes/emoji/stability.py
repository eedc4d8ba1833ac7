"""Measure what keeps training stable: ``python -m recipes.emoji.stability``.

The same small model on the same documents at a high learning rate, with and without qk-norm and the z-loss. Writes
``stability.json`` and ``stability.png``: the loss of each run and how large its logits grow (log²Z). Needs the codes
that ``train_transformer`` wrote into its folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure as Canvas
from rich.progress import track

from chameleon_core.training import DivergenceError, Losses, Trainer, TrainingOptions
from chameleon_vq import ImageTokenizer

from .evaluate_transformer import RESULTS
from .pictures import DATA, PictureSet, replacing
from .train_transformer import RUN, TOKENIZER, Data, new_chameleon, prepare

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}
Z_LOSS = 1e-5


@dataclass(frozen=True)
class Curve:
    """One run: its options and its course."""

    qk_norm: bool
    z_loss: float
    loss: list[float]
    squared_log_normalizer: list[float]
    gradient_norm: list[float]
    diverged: bool

    @property
    def title(self) -> str:
        """The run's entry in the legend."""
        return f"{'with' if self.qk_norm else 'without'} qk-norm, {'with' if self.z_loss else 'without'} z-loss"


def run(
    data: Data,
    *,
    qk_norm: bool,
    z_loss: float,
    steps: int,
    learning_rate: float,
    architecture: dict[str, Any] | None = None,
    batch_size: int = 16,
) -> Curve:
    """Train once; the run ends early if the loss becomes NaN or infinite."""
    model = new_chameleon(data, {**(architecture or SMALL), "qk_norm": qk_norm}).model
    options = TrainingOptions.pretraining(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=min(10, steps // 2),
        schedule="cosine",
        z_loss=z_loss,
        dropout=0.0,
        epsilon=1e-8,
        sequence_length=256,
    )
    documents = data.documents("pretraining", length=steps * batch_size, seed=0)
    loss: list[float] = []
    squared: list[float] = []
    norms: list[float] = []
    diverged = False
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(model.train(), documents, options, scratch)
        title = f"qk-norm {'on' if qk_norm else 'off'}, z-loss {z_loss:g}"
        for step in track(range(steps), title):
            try:
                report = trainer.step(step)
            except DivergenceError:
                diverged = True
                break
            losses, norm = Losses.of(report.sums), float(report.gradient_norm)
            if not (torch.isfinite(report.sums.total).item() and norm < float("inf")):
                diverged = True
                break
            loss.append(losses.loss)
            squared.append(losses.z)
            norms.append(norm)
    return Curve(qk_norm, z_loss, loss, squared, norms, diverged)


def draw(curves: list[Curve], path: Path, *, learning_rate: float) -> None:
    """Plot the losses and the size of the logits, side by side."""
    canvas = Canvas(figsize=(11, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for curve in curves:
        left.plot(curve.loss, label=curve.title, linewidth=1)
        right.plot(curve.squared_log_normalizer, label=curve.title, linewidth=1)
    left.set(xlabel="step", ylabel="cross-entropy (nats)", title=f"learning rate {learning_rate:g}")
    right.set(xlabel="step", ylabel="mean log²Z", yscale="symlog")
    left.legend()
    with replacing(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=120)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.stability", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="the image tokenizer (%(default)s)")
    parser.add_argument("--run", type=Path, default=RUN, help="the run whose codes are used (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder for the results (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="steps of each run (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-2, help="the peak learning rate (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = ImageTokenizer.from_pretrained(arguments.tokenizer)
    data = prepare(arguments.run, PictureSet.load(arguments.data), tokenizer)
    curves = [
        run(data, qk_norm=qk_norm, z_loss=z_loss, steps=arguments.steps, learning_rate=arguments.learning_rate)
        for qk_norm in (True, False)
        for z_loss in (Z_LOSS, 0.0)
    ]
    with replacing(arguments.output / "stability.json") as temporary:
        report = {"learning_rate": arguments.learning_rate, "runs": [asdict(curve) for curve in curves]}
        temporary.write_text(json.dumps(report) + "\n", encoding="utf-8")
    draw(curves, arguments.output / "stability.png", learning_rate=arguments.learning_rate)


if __name__ == "__main__":
    main()
