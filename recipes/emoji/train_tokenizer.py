"""Train the image tokenizer: ``python -m recipes.emoji.train_tokenizer``.

64×64 pixels become 8×8 codes of 4,096. It learns from the pictures that ``build`` marks ``train``, augmented like
the transformer's data; at the end the codebook grows (``grow``). Continues from its checkpoint if there is one, and
writes into its folder: ``checkpoint.pt``, ``log.jsonl``, ``curves.png`` and, at the end, ``tokenizer/``, a folder
that ``ImageTokenizer.from_pretrained`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chameleon_core.evaluation.embedded_requests import SHAPES, is_withheld
from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer
from chameleon_vq.training import TrainingOptions, VQTrainer, initialize, plot_curves, with_plain_codebook

from .augment import Placement, allowed_ground, any_ground, mirror, on_canvas, scene, turn_hue
from .grow import grow_codebook
from .pictures import DATA, SIDE, PictureSet

RUN = Path("build/emoji/tokenizer")
VALIDATION_PICTURES = 64
NUM_CODES = 4096
"""At the end; most of the training has half as many."""

CONFIG = ChameleonVQVAEConfig(
    resolution=SIDE,
    base_channels=32,
    channel_multiplier=(1, 1, 2, 4),
    num_res_blocks=1,
    # With 32, a group would have one channel at full resolution, and the decoder's last norm would remove each
    # channel's mean and contrast from every picture. transformers takes 32 in any case, and so computes other
    # codes with this tokenizer: one that it must read too needs 32 groups, and levels of at least 64 channels.
    norm_num_groups=8,
    latent_channels=128,
    embed_dim=16,
    num_embeddings=2048,
    attn_type="vanilla",
    quantizer="ema",
)
OPTIONS = TrainingOptions(
    # More than two cores can do: the minutes end the run.
    steps=40_000,
    minutes=95.0,
    batch_size=8,
    learning_rate=1e-3,
    final_learning_rate=1e-5,
    warmup_steps=50,
    l1_weight=0.25,
    l2_weight=1.5,
    # With a larger weight, or with codes placed before colours are learned, the latents collapse onto two of their
    # sixteen dimensions.
    quantizer_weight=0.02,
    continuous_steps=1_000,
    kmeans_pictures=512,
    revive_every=100,
    revive_until=0.8,
    log_every=10,
    validate_every=400,
    checkpoint_every=100,
)


class EmojiPictures:
    """Training pictures as a ``PictureSource``; the core's come twice as often as the others."""

    def __init__(self, pictures: PictureSet) -> None:
        self._records = pictures.records
        self._rgba_BHWC = pictures.rgba_BHWC
        self._rounds = [index for index, record in enumerate(self._records) for _ in range(2 if record.core else 1)]
        self._core = [index for index, record in enumerate(self._records) if record.core]

    def __len__(self) -> int:
        return len(self._rounds)

    def pixels(self, indices: Sequence[int], random: np.random.Generator) -> Tensor:
        """Return augmented pictures: float32 [B, 3, 64, 64] in −1…1."""
        pictures_BHWC = np.stack([self._augmented(self._rounds[index], random) for index in indices])
        return torch.from_numpy(pictures_BHWC).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1

    def _augmented(self, index: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
        picture_HWC, name = self._variant(index, random), self._records[index].name
        kind = random.random()
        if kind < 0.45:
            return on_canvas(picture_HWC)
        if kind < 0.7:
            return on_canvas(picture_HWC, Placement.near_whole(random))
        if kind < 0.85:
            ground = allowed_ground(name, random) if random.random() < 0.7 else any_ground(random)
            return on_canvas(picture_HWC, Placement.near_whole(random), ground)
        other = int(random.choice(self._core))
        if is_withheld(name, self._records[other].name):
            return on_canvas(picture_HWC)
        return scene(picture_HWC, self._variant(other, random), "left of" if random.random() < 0.7 else "above")

    def _variant(self, index: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Mirror half of the drawings and recolour some, but no plain shapes, of which some colours are withheld."""
        picture_HWC = np.asarray(self._rgba_BHWC[index])
        if random.random() < 0.5:
            picture_HWC = mirror(picture_HWC)
        if random.random() < 0.2 and not self._records[index].name.endswith((*SHAPES, "skin tone")):
            picture_HWC = turn_hue(picture_HWC, random.random())
        return picture_HWC


def to_pixels(pictures_BHWC: npt.NDArray[np.uint8]) -> Tensor:
    """Convert uint8 [B, H, W, 3] to pixels in −1…1, float32 [B, 3, H, W]."""
    return torch.from_numpy(np.array(pictures_BHWC)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def validation_pixels(pictures: PictureSet) -> Tensor:
    """Return pictures of emoji that are withheld in every style, on white, for validation during training."""
    withheld = pictures.where(lambda picture: picture.split == "withheld-emoji")
    chosen = np.random.default_rng(0).permutation(len(withheld))[:VALIDATION_PICTURES]
    return to_pixels(withheld.on_white()[np.sort(chosen)])


def train(
    folder: Path,
    data: Path,
    options: TrainingOptions,
    config: ChameleonVQVAEConfig = CONFIG,
    *,
    num_codes: int = NUM_CODES,
) -> ChameleonVQVAE:
    """Train or continue training; writes the curves and the tokenizer into ``folder``."""
    pictures = PictureSet.load(data)
    torch.manual_seed(options.seed)
    model = ChameleonVQVAE(config)
    initialize(model)
    trained = EmojiPictures(pictures.where(lambda picture: picture.split == "train"))
    records = VQTrainer(model, options, folder=folder).fit(trained, validation_BCHW=validation_pixels(pictures))
    plot_curves(records, folder / "curves.png", title="The image tokenizer of the embedded model")
    plain = grow_codebook(with_plain_codebook(model), trained, num_codes)
    # In half precision, as it is shipped, so that everything encoded from here has the codes that users get.
    ImageTokenizer(plain.half(), ChameleonImageProcessor.meta(SIDE)).save_pretrained(folder / "tokenizer")
    return plain.float()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji.train_tokenizer", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (%(default)s)")
    parser.add_argument("--run", type=Path, default=RUN, help="the folder of the run (%(default)s)")
    parser.add_argument("--minutes", type=float, default=OPTIONS.minutes, help="the most minutes (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.run, arguments.data, OPTIONS.replace(minutes=arguments.minutes))


if __name__ == "__main__":
    main()
