"""The loop of training: steps, the log, checkpoints, and going on where a run stopped."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .._files import read_json, write_json
from ..errors import ConfigError, FileFormatError
from ..model import ChameleonForConditionalGeneration
from .bar import Advance, progress_bar
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .curves import plot_curves
from .data import TokenDocument
from .errors import DatasetError, DivergenceError
from .extras import train_extra
from .log import TrainingLog
from .objective import Losses, LossSums, Objective
from .optim import build_optimizer, learning_rate
from .options import TrainingOptions
from .order import DocumentOrder
from .packing import Batch, collate

RUN_FILE = "run.json"
LOG_FILE = "log.jsonl"
CURVES_FILE = "curves.png"
CHECKPOINT_FOLDER = "checkpoint"


class Documents(Protocol):
    """What is trained on: a list of ``TokenDocument``, a ``TokenDataset``, or anything that makes them by index.

    An index must give the same document whenever it is asked for, or a resumed run is another run.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> TokenDocument: ...


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step of training."""

    sums: LossSums
    """Over all targets of the step, before the update; tensors, so that nobody waits for a device who doesn't ask."""
    gradient_norm: Tensor
    """Of all gradients together, before clipping."""
    learning_rate: float
    num_tokens: int
    seconds: float

    def log_entry(self) -> dict[str, Any]:
        """The fields of a log line."""
        return {
            **asdict(Losses.of(self.sums)),
            "gradient_norm": float(self.gradient_norm),
            "learning_rate": self.learning_rate,
            "tokens": self.num_tokens,
            "tokens_per_second": round(self.num_tokens / self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended."""

    progress: Progress
    finished: bool
    """False where ``max_seconds`` ended it before its last step."""


class Trainer:
    """One run of training, in ``folder``: ``run.json``, ``log.jsonl``, ``checkpoint/`` and, at the end, ``curves.png``.

    A run that was stopped or killed goes on from its last checkpoint when the same trainer is made again and ``run``
    is called. It ends with the same weights, bit for bit, as a run that wasn't, given the same machine and number of
    threads. ``model`` must be built as it was: parameters that don't train aren't saved. Where the folder is of a run
    with other options, but for the fields in ``TrainingOptions.changeable``, that is a ``ConfigError``.

    ``on_step`` is called with the number of steps done, after each. The model itself holds the result; save it with
    ``model.save_pretrained``.

    This is one process. What several would share stands apart: ``DocumentOrder`` deals out a step's documents by rank,
    ``Objective`` is the one module to wrap, ``build_optimizer`` comes after that, and ``compute_gradients`` divides by
    what the targets of the whole step weigh, which ranks would add up.
    """

    def __init__(
        self,
        model: ChameleonForConditionalGeneration,
        documents: Documents,
        options: TrainingOptions,
        folder: str | os.PathLike[str],
        *,
        held_out: Documents | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.model = model
        self.documents = documents
        self.options = options
        self.folder = Path(folder)
        self.held_out = held_out
        self.on_step = on_step
        self.order = DocumentOrder(len(documents), batch_size=options.batch_size, seed=options.seed)
        objective = Objective(model, options)
        self._importance = objective.importance
        self.objective: nn.Module = torch.compile(objective) if options.compile else objective  # type: ignore[assignment]
        self.optimizer = build_optimizer(model, options)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def run(self, *, show_progress: bool = False, draw_curves: bool = True) -> TrainingResult:
        """Train to the last step, or until ``max_seconds`` have passed. Seeds torch's generators.

        Raises ``DivergenceError`` where the loss or a gradient is no longer finite; the last checkpoint is from before.
        """
        if draw_curves:
            # Not after hours of work.
            with train_extra("drawing curves"):
                import matplotlib  # noqa: F401
        began = time.monotonic()
        options = self.options
        _claim_folder(self.folder, options, len(self.documents))
        torch.manual_seed(options.seed)
        progress = load_checkpoint(self.folder / CHECKPOINT_FOLDER, self.model, self.optimizer) or Progress()
        log = TrainingLog(self.folder / LOG_FILE, steps_done=progress.step)
        out_of_time = False
        with _mode(self.model, training=True), self._bar(progress.step, shown=show_progress) as advance:
            while progress.step < options.steps and not out_of_time:
                report = self.step(progress.step)
                progress = progress.after(report.num_tokens, report.seconds)
                self._log_step(report, progress.step, log, advance)
                out_of_time = options.max_seconds is not None and time.monotonic() - began >= options.max_seconds
                if out_of_time or self._due(progress.step, options.save_every):
                    _check_finite(report, progress.step)
                    save_checkpoint(self.folder / CHECKPOINT_FOLDER, self.model, self.optimizer, progress)
                if self.on_step is not None:
                    self.on_step(progress.step)
        finished = progress.step == options.steps
        if finished and draw_curves:
            plot_curves(self.folder / LOG_FILE, self.folder / CURVES_FILE)
        return TrainingResult(progress, finished)

    def step(self, step: int) -> StepReport:
        """One update of the weights: the gradients of the step's documents, clipped, at the step's rate."""
        began = time.monotonic()
        documents = [self.documents[index] for index in self.order.step(step)]
        sums = self.compute_gradients(documents)
        gradient_norm = nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip)
        rate = learning_rate(step, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        num_tokens = sum(len(document) for document in documents)
        return StepReport(sums, gradient_norm, rate, num_tokens, time.monotonic() - began)

    def compute_gradients(self, documents: Sequence[TokenDocument]) -> LossSums:
        """Add the gradients of the mean loss over all targets of ``documents``, some documents at a time.

        A target weighs the same, however many of them its part of the documents has.
        """
        batches = self._batches(documents)
        importance = sum(self._importance(batch) for batch in batches)
        if not importance:
            raise DatasetError(f"none of the {len(documents)} documents of a step has a target: their masks are empty.")
        parts = []
        for batch in batches:
            sums = self._forward(batch)
            (sums.total / importance).backward()  # type: ignore[no-untyped-call]
            parts.append(sums.detach())
        return LossSums.add(parts)

    @torch.no_grad()
    def evaluate(self, documents: Documents) -> Losses:
        """The mean losses of documents, without dropout."""
        size = self.options.micro_batch_size or self.options.batch_size
        parts = []
        with _mode(self.model, training=False):
            for start in range(0, len(documents), size):
                chosen = [documents[index] for index in range(start, min(start + size, len(documents)))]
                parts += [self._forward(batch) for batch in self._batches(chosen)]
        return Losses.of(LossSums.add(parts))

    def _batches(self, documents: Sequence[TokenDocument]) -> list[Batch]:
        """The documents in batches, those of like lengths together, which leaves the least padding."""
        options = self.options
        size = options.micro_batch_size or len(documents)
        ordered = sorted(documents, key=len)
        return [
            collate(ordered[start : start + size], options.sequence_length, rows=options.rows)
            for start in range(0, len(ordered), size)
        ]

    def _forward(self, batch: Batch) -> LossSums:
        device = self.model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16"):
            sums: LossSums = self.objective(batch.to(device))
        return sums

    def _log_step(self, report: StepReport, step: int, log: TrainingLog, advance: Advance) -> None:
        held_out = self.held_out if self._due(step, self.options.evaluate_every) else None
        if held_out is None and not self._due(step, self.options.log_every):
            return
        _check_finite(report, step)
        entry = {"step": step, **report.log_entry()}
        if held_out is not None:
            entry |= {f"held_out_{name}": value for name, value in asdict(self.evaluate(held_out)).items()}
        log.append(entry)
        advance(step, f"loss {entry['loss']:.3f}, {entry['tokens_per_second']:.0f} tokens/s")

    def _due(self, step: int, every: int) -> bool:
        """Whether what comes every so many steps (0: never), and after the last, comes after this one."""
        return step == self.options.steps or (every > 0 and step % every == 0)

    def _bar(self, steps_done: int, *, shown: bool) -> contextlib.AbstractContextManager[Advance]:
        if not shown:
            return contextlib.nullcontext(lambda done, words: None)
        return progress_bar(total=self.options.steps, completed=steps_done)


def _claim_folder(folder: Path, options: TrainingOptions, num_documents: int) -> None:
    """Write down what the run in this folder is, or raise ``ConfigError`` where it is another one."""
    path = folder / RUN_FILE
    if path.exists():
        found = read_json(path)
        try:
            before = TrainingOptions.from_dict(found["options"], source=str(path)).to_dict()
        except (KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{path} doesn't describe a run: {error!r}. Remove it to start anew.") from error
        differing = {
            name: (before[name], value)
            for name, value in options.to_dict().items()
            if name not in options.changeable and before[name] != value
        }
        if found.get("num_documents") != num_documents:
            differing["num_documents"] = (found.get("num_documents"), num_documents)
        if differing:
            listed = "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in differing.items())
            raise ConfigError(f"{path} is of another run: {listed}. Go on with its options, or in another folder.")
    write_json(path, {"num_documents": num_documents, "options": options.to_dict()})


def _check_finite(report: StepReport, step: int) -> None:
    loss, norm = float(report.sums.total), float(report.gradient_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergenceError(
            f"step {step}: the loss is {loss} and the gradients' norm {norm}. Lower the learning rate, warm up longer, "
            "or keep qk_norm and the z-loss on; the checkpoint before this step is whole."
        )


@contextlib.contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)
