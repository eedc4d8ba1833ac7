"""Train a classifier that judges drawings, on real pictures alone: ``python -m recipes.emoji.classifier``.

A small convolutional network that names a picture. It never sees the image tokenizer, the transformer or a withheld
picture; its accuracy on withheld pictures is the most that it can measure of drawings.

Shapes: B pictures of a batch, J pictures of the data set, C channels, H W pixels, U names.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from .compositions import learned
from .pictures import DATA, SIDE, PictureSet, replacing

FOLDER = Path("build/emoji/classifier")
WIDTHS = (32, 64, 128, 192)
BATCH = 128
LEARNING_RATE = 2e-3


class Judge(nn.Module):
    """Classifies pictures: pixels [B, 3, 64, 64] in 0…1 to one logit per name [B, U]."""

    def __init__(self, names: Sequence[str], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.names = list(names)
        self.widths = tuple(widths)
        layers: list[nn.Module] = []
        for before, width in zip((3, *widths), widths, strict=False):
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        side = SIDE // 2 ** len(widths)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(widths[-1] * side * side, 256),
            nn.ReLU(),
            nn.Linear(256, len(names)),
        )

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the logits [B, U]."""
        return self.head(self.features(2 * pixels_BCHW - 1))

    @torch.no_grad()
    def name(self, pictures_BHWC: npt.NDArray[np.uint8]) -> list[str]:
        """Return the likeliest name of each picture, uint8 [B, 64, 64, 3]."""
        self.eval()
        names = []
        for start in range(0, len(pictures_BHWC), BATCH):
            part_BHWC = np.ascontiguousarray(pictures_BHWC[start : start + BATCH])
            logits_BU = self(torch.from_numpy(part_BHWC).permute(0, 3, 1, 2).float() / 255)
            names += [self.names[index] for index in logits_BU.argmax(dim=1).tolist()]
        return names

    def save(self, folder: Path) -> None:
        """Write the weights and the names."""
        with replacing(folder / "model.safetensors") as temporary:
            safetensors.torch.save_file(self.state_dict(), temporary)
        with replacing(folder / "names.json") as temporary:
            temporary.write_text(json.dumps({"names": self.names, "widths": self.widths}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Judge:
        """Read what ``save`` wrote."""
        if not (folder / "names.json").exists():
            raise FileNotFoundError(f"No classifier in {folder}. Train it first: python -m recipes.emoji.classifier")
        data = json.loads((folder / "names.json").read_text(encoding="utf-8"))
        judge = cls(data["names"], data["widths"])
        judge.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        return judge.eval()


def augmented(rgba_BCHW: Tensor, random: torch.Generator) -> Tensor:
    """Move, scale and blur drawings and put them on grounds, like generated ones: RGBA in 0…1 to RGB in 0…1."""
    count = len(rgba_BCHW)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=random)

    alpha_B1HW = rgba_BCHW[:, 3:]
    premultiplied_BCHW = torch.cat([rgba_BCHW[:, :3] * alpha_B1HW, alpha_B1HW], dim=1)
    scale, turn = 1 / uniform(0.7, 1.05), uniform(-0.12, 0.12)
    matrix_B23 = torch.zeros(count, 2, 3)
    matrix_B23[:, 0, 0], matrix_B23[:, 1, 1] = scale * turn.cos(), scale * turn.cos()
    matrix_B23[:, 0, 1], matrix_B23[:, 1, 0] = -scale * turn.sin(), scale * turn.sin()
    matrix_B23[:, 0, 2], matrix_B23[:, 1, 2] = uniform(-0.25, 0.25), uniform(-0.25, 0.25)
    grid = F.affine_grid(matrix_B23, list(premultiplied_BCHW.shape), align_corners=False)
    moved_BCHW = F.grid_sample(premultiplied_BCHW, grid, align_corners=False)
    # Half of the grounds are white, as most drawings' are.
    ground_B3 = torch.rand(count, 3, generator=random)
    ground_B3[uniform(0, 1) < 0.5] = 1.0
    pixels_BCHW = moved_BCHW[:, :3] + (1 - moved_BCHW[:, 3:]) * ground_B3[:, :, None, None]
    # Generated drawings come from 8×8 codes, and parts of scenes are enlarged: both are blurred.
    small_BCHW = F.interpolate(pixels_BCHW, scale_factor=0.5, mode="area")
    soft_BCHW = F.interpolate(small_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)
    softness_B = uniform(-0.5, 1).clamp(min=0)[:, None, None, None]
    pixels_BCHW = torch.lerp(pixels_BCHW, soft_BCHW, softness_B)
    noise_BCHW = torch.randn(pixels_BCHW.shape, generator=random) * uniform(0, 0.05)[:, None, None, None]
    return (pixels_BCHW * uniform(0.85, 1.1)[:, None, None, None] + noise_BCHW).clamp(0, 1)


def train(
    pictures: PictureSet, *, minutes: float = 10.0, steps: int = 1000, seed: int = 0, widths: Sequence[int] = WIDTHS
) -> Judge:
    """Train on the transformer's pictures, for ``steps`` steps or until ``minutes`` have passed.

    The learning rate follows whichever comes first, so that it ends at 0 in either case.
    """
    known = learned(pictures)
    names = sorted({record.name for record in known.records})
    index_of = {name: index for index, name in enumerate(names)}
    labels_J = torch.tensor([index_of[record.name] for record in known.records])
    rgba_JCHW = torch.from_numpy(np.array(known.rgba_BHWC)).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(names, widths).train()
        random = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        began = time.monotonic()
        for step in track(range(steps), "training the classifier"):
            done = max(step / steps, (time.monotonic() - began) / (60 * minutes))
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
            chosen_B = torch.randint(len(known), (min(BATCH, 4 * len(known)),), generator=random)
            pixels_BCHW = augmented(rgba_JCHW[chosen_B].float() / 255, random)
            loss = F.cross_entropy(judge(pixels_BCHW), labels_J[chosen_B], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return judge.eval()


def accuracy(judge: Judge, pictures_BHWC: npt.NDArray[np.uint8], names: Sequence[str]) -> float:
    """Return the share of pictures, uint8 [B, 64, 64, 3], that are named right."""
    if not names:
        return float("nan")
    return float(np.mean([guess == name for guess, name in zip(judge.name(pictures_BHWC), names, strict=True)]))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.classifier", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder for the classifier (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="the most minutes (%(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="the most steps (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pictures = PictureSet.load(arguments.data)
    judge = train(pictures, minutes=arguments.minutes, steps=arguments.steps)
    judge.save(arguments.output)
    withheld = pictures.where(lambda picture: picture.split == "withheld-style" and picture.name in judge.names)
    known = learned(pictures)
    for title, part in (("learned pictures", known), ("known names in a withheld style", withheld)):
        figure = accuracy(judge, part.on_white(), [record.name for record in part.records])
        Console().print(f"{title}: {figure:.1%} of {len(part)}")


if __name__ == "__main__":
    main()
