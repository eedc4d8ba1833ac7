"""Fine-tune the transformer on instructions: ``python -m recipes.emoji.finetune``.

It continues from the pre-trained model with requests, the separator and answers, of which only the answers are learned:
first mostly names, then drawings as well. It resumes where it was interrupted. The first run is in ``naming/``, the
second in its folder, with the embedded model in ``model/`` when it has finished.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from chameleon_core import Chameleon
from chameleon_core.training import TrainingOptions
from chameleon_vq import ImageTokenizer

from .pictures import PictureSet
from .train_transformer import (
    OPTIONS,
    RUN,
    SMOKE_OPTIONS,
    SMOKE_SIZE,
    arguments_of,
    minutes_left,
    options_of_run,
    prepare,
    random_image_tokenizer,
    run_stage,
    smoke_pictures,
)

FINETUNED = Path("build/emoji/finetuned")
MINUTES = 52.0
NAMING = "naming"
NAMING_SHARE = 0.8
"""Of the minutes; the second run has a quarter of the first one's steps."""

NAMES: dict[str, Any] = {
    # Half of the pre-training's. The published decrease, from 1e-4 to 1e-5, is for a model that has seen more data than
    # its instructions; this one is still learning its pictures.
    "learning_rate": 1e-3,
    "warmup_steps": 50,
    "dropout": 0.0,
}
DRAWINGS: dict[str, Any] = {"learning_rate": 5e-4}


def finetune(
    folder: Path,
    pretrained: Path,
    data_folder: Path,
    tokenizer: Path,
    *,
    minutes: float = MINUTES,
    steps: int | None = None,
    seed: int = 1,
    smoke: bool = False,
) -> bool:
    """Run the stage, with the codes and vocabulary of the run in ``pretrained``; return True when it finished."""
    began = time.monotonic()
    model = pretrained / "model"
    if not (model / "config.json").exists():
        raise FileNotFoundError(
            f"No trained model in {model}. Train it first: python -m recipes.emoji.train_transformer"
        )
    pictures = PictureSet.load(data_folder)
    if smoke:
        pictures, image_tokenizer = smoke_pictures(pictures), random_image_tokenizer()
    else:
        image_tokenizer = ImageTokenizer.from_pretrained(tokenizer)
    data = prepare(pretrained, pictures, image_tokenizer, SMOKE_SIZE if smoke else None, form="instructions")
    named = folder / NAMING
    base = TrainingOptions.finetuning(steps=10**6, seed=seed, **{**(SMOKE_OPTIONS if smoke else OPTIONS), **NAMES})
    if not (named / "model" / "config.json").exists():
        chameleon = Chameleon.from_pretrained(model)
        share = NAMING_SHARE * minutes_left(minutes, began)
        if not run_stage(chameleon, data, base, named, form="instructions", minutes=share, steps=steps):
            return False
    chameleon = Chameleon.from_pretrained(named / "model")
    naming = options_of_run(named)
    return run_stage(
        chameleon,
        data,
        base.replace(seed=seed + 1, **DRAWINGS),
        folder,
        form="drawing",
        minutes=minutes_left(minutes, began),
        steps=max(1, naming.steps // 4) if naming else None,
    )


def main() -> None:
    """Run the command."""
    summary = (__doc__ or "").splitlines()[0]
    parser = arguments_of("finetune", summary, FINETUNED, MINUTES)
    parser.add_argument("--pretrained", type=Path, default=RUN, help="the run to continue from (%(default)s)")
    parser.set_defaults(seed=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    suffix = "-smoke" if arguments.smoke else ""
    finetune(
        Path(f"{arguments.run}{suffix}"),
        Path(f"{arguments.pretrained}{suffix}"),
        arguments.data,
        arguments.tokenizer,
        minutes=arguments.minutes,
        steps=20 if arguments.smoke and arguments.steps is None else arguments.steps,
        seed=arguments.seed,
        smoke=arguments.smoke,
    )


if __name__ == "__main__":
    main()
