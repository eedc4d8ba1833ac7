"""Training the VQ-VAE. One step reads top to bottom in ``VQTrainer._step``.

Shapes: B pictures, C channels, H W pixels, h w latent grid, M positions, D width of a latent.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._moved import moved_names
from ..errors import ConfigError, FileFormatError, ImageError
from ..model import ChameleonVQVAE, VQReconstruction
from .checkpoints import CHECKPOINT_FILE, LOG_FILE, RunState, load_checkpoint, save_checkpoint
from .codebooks import CodebookCare, has_codebooks, positions
from .discriminator import Adversary, clip_gradient, least_side
from .drawing import Drawing
from .errors import DivergenceError
from .interrupts import waiting_interrupts
from .log import TrainingLog
from .metrics import measure
from .options import TrainingOptions
from .order import BatchOrder, random_for
from .pictures import PictureSource, check_training_batch, part_of_batch
from .progress import progress_bar
from .ranks import Ranks
from .stored_state import check_tensor, check_tensors, checked_generator

# Options that may differ between a checkpoint and the run that resumes it: they don't change the weights.
INTERVALS = ("log_every", "validate_every", "checkpoint_every")


@dataclass(frozen=True, slots=True)
class Losses:
    """The terms of one step's loss, scalars; ``reconstruction`` is the weighted sum of the others."""

    l1: Tensor
    """The mean absolute difference of the pixels."""
    l2: Tensor
    """The mean squared difference of the pixels."""
    perceptual: Tensor
    """What the perceptual loss returned, 0 without one."""
    reconstruction: Tensor
    """The sum of the others, each times its weight in the options."""


class VQTrainer:
    """Trains a ``ChameleonVQVAE`` in place.

    ``folder`` receives ``checkpoint.pt`` and ``log.jsonl``; without one nothing is written. ``perceptual`` is any
    module that takes two batches of pixels, drawn and real, and returns a loss (its mean is used); its weights are not
    trained. A trainer whose folder has a checkpoint resumes from it, and ends with the same weights bit for bit as a
    run that was never interrupted (without ``options.minutes``, on the same machine with as many threads).

    Processes that ``torchrun`` started train together: each has its share of a step's pictures, and all the same
    weights, at first those of the first process, which alone writes. Losses, gradients and the codebook are those of a
    single process up to rounding (with other dropout), and any number of processes resumes what another has saved.

    Raises ``ConfigError`` if the model has no decoder, and where the processes can't share a batch evenly.
    """

    def __init__(
        self,
        model: ChameleonVQVAE,
        options: TrainingOptions,
        *,
        folder: str | Path | None = None,
        perceptual: nn.Module | None = None,
    ) -> None:
        if model.decoder is None:
            raise ConfigError("a model without a decoder can't be trained; create it with with_decoder=True.")
        self.model = model
        self.options = options
        self.folder = None if folder is None else Path(folder)
        self.perceptual = None if perceptual is None else perceptual.eval().requires_grad_(False)
        self.device = model.decoder.conv_out.weight.device
        self.ranks = Ranks.join(self.device)
        if options.batch_size % self.ranks.count:
            raise ConfigError(
                f"batch_size is {options.batch_size}, which {self.ranks.count} processes can't share evenly. Use a "
                "multiple of their number."
            )
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, options.learning_rate, betas=options.betas, weight_decay=options.weight_decay
        )
        self.adversary: Adversary | None = None
        if options.discriminator_weight:
            self.adversary = Adversary(
                model.config.picture_channels, model.decoder.conv_out.weight, options, self.ranks
            )
        self.step = 0
        self.seconds = 0.0
        self.codebook = CodebookCare(model.quantize, self.optimizer, self.ranks)
        self._drawing = lru_cache(maxsize=1)(self._wrap)

    def __repr__(self) -> str:
        folder = None if self.folder is None else str(self.folder)
        return f"VQTrainer(step {self.step}, {self.device}, folder={folder!r}, {self.options!r})"

    def fit(
        self,
        pictures: PictureSource,
        *,
        validation_BCHW: Tensor | None = None,
        validation_NCHW: Tensor | None = None,
    ) -> list[dict[str, Any]]:
        """Train until the run is complete, and return the entries of its log, as in ``log.jsonl``.

        Ctrl-C and SIGTERM end the run after the current step, which is saved; a second one ends it at once, and the
        last checkpoint stays.

        ``validation_BCHW`` are pixels in −1…1, measured every ``validate_every`` steps (``validation_NCHW`` is its
        deprecated name). Raises ``DivergenceError`` if the loss becomes NaN or infinite, ``ConfigError`` if the folder
        has a run with other options, ``FileFormatError`` if its checkpoint can't be read, and ``ImageError``, before
        any work, if the pictures don't suit the model or aren't in −1…1.
        """
        if validation_NCHW is not None:
            warnings.warn("validation_NCHW is deprecated; use validation_BCHW.", DeprecationWarning, stacklevel=2)
            validation_BCHW = validation_NCHW
        options = self.options
        if not len(pictures):
            raise ImageError("there are no pictures to train on; expected at least one.")
        if validation_BCHW is not None:
            self._check_batch(validation_BCHW, "the validation pictures")
        self._resume()
        path = None if self.folder is None else self.folder / LOG_FILE
        log = TrainingLog(path, steps_done=self.step, writes=self.ranks.leads)
        order = BatchOrder(len(pictures), batch_size=options.batch_size, seed=options.seed)
        before, started = self.seconds, time.monotonic()
        self.model.train()
        with (
            waiting_interrupts() as interrupts,
            self.ranks.training(self.model.quantize),
            progress_bar(total=1.0, completed=self._progress(), shown=self.ranks.leads) as show,
        ):
            while self._progress() < 1:
                if self.step == options.continuous_steps and options.kmeans_pictures:
                    self._place_entries(pictures)
                self.ranks.seed(options.seed, self.step)
                random = random_for(options.seed, "augment", self.step)
                own = self.ranks.share(options.batch_size)
                pixels_BCHW = part_of_batch(pictures, order.batch(self.step), random, own)
                self._check_batch(pixels_BCHW, f"the pictures of step {self.step}")
                self._check_patches(pixels_BCHW)
                entry = self._step(pixels_BCHW.to(self.device))
                self.step += 1
                self.seconds = self.ranks.largest(before + time.monotonic() - started)
                ends = self._progress() >= 1
                entry = {"step": self.step, "seconds": round(self.seconds, 1), **entry}
                if self._is_due(options.log_every, ends):
                    log.append(entry)
                    show(self._progress(), f"loss {entry['loss']:.4f}, {entry['psnr']:.2f} dB")
                if validation_BCHW is not None and self._is_due(options.validate_every, ends):
                    quality = measure(
                        self.model, validation_BCHW.to(self.device), batch_size=options.batch_size, ranks=self.ranks
                    )
                    log.append({"step": self.step, "validation": asdict(quality)})
                saves = self._is_due(options.checkpoint_every, ends)
                if saves:
                    self._save()
                # All ranks end after the same step, whichever was told to.
                signal = int(self.ranks.largest(interrupts.received or 0))
                if signal:
                    if not saves:
                        self._save()
                    interrupts.received = signal
                    interrupts.end()
        self.model.eval()
        return log.entries

    def _check_batch(self, pixels_BCHW: Tensor, name: str) -> None:
        """Raise ``ImageError`` if pictures don't suit the model."""
        config = self.model.config
        check_training_batch(pixels_BCHW, name, channels=config.in_channels, stride=config.stride)

    def _check_patches(self, pixels_BCHW: Tensor) -> None:
        """Raise ``ImageError`` if pictures are too small for the discriminator, which may begin much later."""
        layers, (height, width) = self.options.discriminator_layers, pixels_BCHW.shape[2:]
        if self.adversary is not None and min(height, width) < least_side(layers):
            raise ImageError(
                f"the pictures of step {self.step} are {height}×{width}, expected at least {least_side(layers)} pixels "
                f"a side for a discriminator of {layers} layers. Lower discriminator_layers, or enlarge the pictures."
            )

    def _step(self, pixels_BCHW: Tensor) -> dict[str, Any]:
        """Update the model and the discriminator once, and return the step's entry for the log."""
        options = self.options
        learning_rate = self._set_learning_rates()
        quantizes = self.step >= options.continuous_steps
        adversary = self.adversary if self.step >= options.discriminator_start else None
        with self._precision():
            drawn: VQReconstruction = self._drawing(quantizes)(pixels_BCHW)
            losses = self._losses(drawn.pixels_BCHW.float(), pixels_BCHW)
            loss = losses.reconstruction
            values = {"l1": losses.l1, "l2": losses.l2}
            if self.perceptual is not None:
                values["perceptual"] = losses.perceptual
            if quantizes:
                values["quantizer"] = drawn.encoding.loss
                loss = loss + options.quantizer_weight * drawn.encoding.loss.float()
            if adversary is not None:
                generator, weight = adversary.generator_loss(drawn.pixels_BCHW, losses.reconstruction)
                loss = loss + options.discriminator_weight * weight * generator
                values |= {"generator": generator, "adaptive_weight": weight}
        entry: dict[str, Any] = self.ranks.means({"loss": loss, **values})
        self._check_finite(entry["loss"], "loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradient(self.parameters, options)
        self._check_finite(norm.item(), "gradient's norm")
        self.optimizer.step()
        if adversary is not None:
            discriminator = adversary.train(pixels_BCHW, drawn.pixels_BCHW.detach(), self._precision())
            entry |= self.ranks.means({"discriminator": discriminator})
        if quantizes:
            self.codebook.count(drawn.encoding.codes_Bhw)
            entry |= self._revive(drawn.encoding.latents_BDhw)
            if self.step == options.continuous_steps:
                self._check_codebook()
        psnr = -10 * math.log10(max(entry["l2"], 1e-10) / 4)
        return entry | {"psnr": psnr, "learning_rate": learning_rate, "gradient_norm": norm.item()}

    def _check_finite(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            raise DivergenceError(
                f"the {name} of step {self.step} is {value}, expected a finite number. Lower learning_rate or "
                "clip_norm and start again; the last checkpoint is from an earlier step."
            )

    def _wrap(self, quantizes: bool) -> nn.Module:
        return self.ranks.wrapped(Drawing(self.model, quantizes=quantizes))

    def _check_codebook(self) -> None:
        quantizer = self.model.quantize
        self.ranks.check_same(quantizer, self.model.config.quantizer)  # type: ignore[arg-type]  # every one is a module

    def _losses(self, drawn_BCHW: Tensor, pixels_BCHW: Tensor) -> Losses:
        options = self.options
        l1 = F.l1_loss(drawn_BCHW, pixels_BCHW)
        l2 = F.mse_loss(drawn_BCHW, pixels_BCHW)
        perceptual = l1.new_zeros(())
        if self.perceptual is not None:
            perceptual = self.perceptual(drawn_BCHW, pixels_BCHW).mean()
        total = options.l1_weight * l1 + options.l2_weight * l2 + options.perceptual_weight * perceptual
        return Losses(l1, l2, perceptual, total)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16")

    def _progress(self) -> float:
        """Return how much of the run is done, 0…1."""
        of_steps = self.step / self.options.steps
        of_time = 0.0 if self.options.minutes is None else self.seconds / 60 / self.options.minutes
        return min(1.0, max(of_steps, of_time))

    def _set_learning_rates(self) -> float:
        """Set the learning rates, a linear warm-up times a cosine, and return the model's."""
        options = self.options
        warmup = min(1.0, (self.step + 1) / max(1, options.warmup_steps))
        cosine = (1 + math.cos(math.pi * self._progress())) / 2
        floor = options.final_learning_rate / options.learning_rate
        factor = warmup * (floor + (1 - floor) * cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        if self.adversary is not None:
            for group in self.adversary.optimizer.param_groups:
                group["lr"] = options.discriminator_learning_rate * factor
        return options.learning_rate * factor

    @torch.no_grad()
    def _place_entries(self, pictures: PictureSource) -> None:
        """Place the codebook's entries by k-means over the latents of pictures that are drawn as the batches are."""
        if not has_codebooks(self.model.quantize):
            return
        options = self.options
        random = random_for(options.seed, "codebook", self.step)
        latents = []
        self.model.eval()
        for _ in range(max(1, math.ceil(options.kmeans_pictures / options.batch_size))):
            indices = random.integers(len(pictures), size=options.batch_size).tolist()
            pixels_BCHW = part_of_batch(pictures, indices, random, self.ranks.share(len(indices)))
            self._check_batch(pixels_BCHW, "the pictures for k-means")
            encoding = self.model.encode(pixels_BCHW.to(self.device))
            latents.append(self.ranks.gathered(positions(encoding.latents_BDhw)))
        self.model.train()
        self.codebook.place(torch.cat(latents), random)

    def _revive(self, latents_BDhw: Tensor) -> dict[str, float]:
        """Every ``revive_every`` steps, revive unused entries and return the codebook's figures for the log."""
        options = self.options
        if not options.revive_every or (self.step + 1) % options.revive_every:
            return {}
        latents_MD = self.ranks.gathered(positions(latents_BDhw.detach()))
        figures = self.codebook.figures(latents_MD)
        if self._progress() <= options.revive_until and has_codebooks(self.model.quantize):
            self.codebook.revive(latents_MD, random_for(options.seed, "codebook", self.step))
        self.codebook.usage_QZ.zero_()
        return figures

    def _is_due(self, every: int, ends: bool) -> bool:
        return ends or (every > 0 and self.step % every == 0)

    def _save(self) -> None:
        self._check_codebook()
        if self.folder is None or not self.ranks.leads:
            return
        state: dict[str, Any] = {
            "step": self.step,
            "seconds": self.seconds,
            "options": self.options.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "usage": self.codebook.usage_QZ,
            "random": {"cpu": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            state["random"]["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.adversary is not None:
            state["discriminator"] = self.adversary.discriminator.state_dict()
            state["discriminator_optimizer"] = self.adversary.optimizer.state_dict()
        save_checkpoint(self.folder, state)

    def _resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one. Everything is checked before anything is changed."""
        state = None if self.folder is None else load_checkpoint(self.folder)
        if self.folder is None or state is None:
            return
        source = self.folder / CHECKPOINT_FILE
        self._check_options(state, source)
        adversary = self.adversary
        check_tensors(state.model, self.model.state_dict(), source=f"{source}, model,")
        check_tensor(state.usage, self.codebook.usage_QZ, name=f"{source}: usage")
        optimizer = state.optimizer.checked(self.optimizer, steps=state.step, source=source)
        cpu = checked_generator(state.random.cpu, device="cpu", name=f"{source}: the generator")
        cuda = None
        if state.random.cuda is not None and self.device.type == "cuda":
            cuda = checked_generator(state.random.cuda, device=self.device, name=f"{source}: the generator of CUDA")
        if adversary is not None:
            if state.discriminator is None or state.discriminator_optimizer is None:
                raise FileFormatError(f"{source} has no discriminator, which its options ask for. Delete it.")
            of_adversary = f"{source}, discriminator,"
            check_tensors(state.discriminator, adversary.discriminator.state_dict(), source=of_adversary)
            its_optimizer = state.discriminator_optimizer.checked(
                adversary.optimizer, steps=state.step, source=of_adversary
            )
            adversary.discriminator.load_state_dict(state.discriminator)
            adversary.optimizer.load_state_dict(its_optimizer)
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(optimizer)
        self.codebook.usage_QZ.copy_(state.usage)
        self.step, self.seconds = state.step, state.seconds
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, self.device)

    def _check_options(self, state: RunState, source: Path) -> None:
        try:
            theirs = TrainingOptions.from_dict(state.options, source=str(source)).to_dict()
        except ConfigError as error:
            raise FileFormatError(f"{error} Delete it to start over.") from error
        changed = [
            f"{name} {theirs[name]!r}, now {value!r}"
            for name, value in self.options.to_dict().items()
            if name not in INTERVALS and value != theirs[name]
        ]
        if changed:
            raise ConfigError(
                f"{self.folder} has a run with other options: {', '.join(changed)}. Continue with its options, or "
                "train into another folder."
            )
        if state.step > self.options.steps:
            raise FileFormatError(
                f"{source} is of step {state.step:,} of a run of {self.options.steps:,} steps. Delete it to start over."
            )


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(__name__, {"DivergedError": "chameleon_vq.training.errors:DivergenceError"})
