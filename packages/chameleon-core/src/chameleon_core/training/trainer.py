"""The loop of training: steps, the log, checkpoints, and resuming a run."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor, nn

from .._files import read_json, write_json
from ..divided import any_divided, gathered, whole
from ..errors import ConfigError, FileFormatError
from ..model import ChameleonForConditionalGeneration
from .checkpoints import Progress, load_checkpoint, save_checkpoint
from .checks import check_document, check_documents, check_weights
from .curves import plot_curves
from .data import TokenDocument
from .errors import DatasetError, DivergenceError, requires_extra
from .interrupts import waiting_interrupts
from .log import TrainingLog
from .objective import Losses, LossSums, Objective
from .optim import build_optimizer, learning_rate
from .options import TrainingOptions
from .order import BatchOrder
from .packing import Batch, collate_batches
from .progress import Advance, progress_bar
from .ranks import Ranks

RUN_FILE = "run.json"
LOG_FILE = "log.jsonl"
CURVES_FILE = "curves.png"
CHECKPOINT_FOLDER = "checkpoint"


class Documents(Protocol):
    """Documents to train on: a list of ``TokenDocument``, a ``TokenDataset``, or any object that returns them by index.

    An index must always return the same document; otherwise a resumed run differs from one that wasn't stopped.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> TokenDocument: ...


class _Bounds(TypedDict):
    vocab_size: int
    sequence_length: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """The figures of one step."""

    sums: LossSums
    """Over all targets of the step, before the update; tensors, so that only reading them waits for the device."""
    gradient_norm: Tensor
    """Scalar: the norm of all gradients together, before clipping."""
    learning_rate: float
    """The learning rate of the step."""
    num_tokens: int
    """Ids in the documents of the step."""
    seconds: float
    """Wall-clock time of the step."""

    def log_entry(self) -> dict[str, Any]:
        """Return the fields of a log entry."""
        return {
            **asdict(Losses.of(self.sums)),
            "gradient_norm": float(self.gradient_norm),
            "learning_rate": self.learning_rate,
            "tokens": self.num_tokens,
            "tokens_per_second": round(self.num_tokens / self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The end of a run."""

    progress: Progress
    """How much is done."""
    finished: bool
    """False where ``max_seconds`` ended the run before its last step."""


class Trainer:
    """One run of training, in ``folder``: ``run.json``, ``log.jsonl``, ``checkpoint/`` and, at the end, ``curves.png``.

    A run that was stopped or killed resumes from its last checkpoint when the same trainer is constructed again and
    ``run`` is called. On the same machine with the same number of threads it ends with the same weights, bit for bit,
    as a run that wasn't stopped. ``model`` must be constructed as before, since parameters that don't train aren't
    saved. Raises ``ConfigError`` where no parameter requires gradients, and where the folder holds a run with other
    options, except those in ``TrainingOptions.changeable``.

    Documents in a list or a ``TokenDataset`` are checked before the first step, others in the step that takes them:
    ``DatasetError`` names the document with an id outside the vocabulary or with fewer than two ids.

    ``on_step`` is called after each step with the number of steps that are done. The trained weights are those of
    ``model``; save them with ``model.save_pretrained``.

    Processes that ``torchrun`` started train together: each has its share of a step's documents and a part of all
    weights, gradients and moments, and ``folder`` is one that all have. The losses and gradients of a step are those of
    a single process up to rounding (with other dropout), and any number of ranks resumes what another has saved. Each
    process must construct the model with the same weights. ``ConfigError`` says where the ranks can't share a batch
    evenly, or the weights of the model can't be divided. Then ``save_pretrained`` of the trainer writes the model.
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
        self.ranks = ranks = Ranks.join(model.device, tensor_parallel=options.tensor_parallel)
        self.order = BatchOrder(
            len(documents),
            batch_size=options.batch_size,
            seed=options.seed,
            rank=ranks.data_rank,
            world_size=ranks.data_count,
        )
        objective = Objective(model, options)
        self._importance = objective.importance
        if ranks.mesh is not None:
            if options.compile:
                raise ConfigError("compile=True is for a single process; several ranks train without torch.compile.")
            from .sharding import shard

            shard(objective, ranks)
        self.objective: nn.Module = torch.compile(objective) if options.compile else objective  # type: ignore[assignment]
        self.optimizer = build_optimizer(model, options)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if not self.parameters:
            raise ConfigError(
                "no parameter of the model requires gradients. Call model.requires_grad_(True), add_lora(model) or "
                "train_picture_rows(model)."
            )

    def __repr__(self) -> str:
        documents = f"<{len(self.documents)} documents>"
        return f"Trainer({str(self.folder)!r}, documents={documents}, steps={self.options.steps})"

    def run(self, *, show_progress: bool = False, draw_curves: bool = True) -> TrainingResult:
        """Train to the last step, or until ``max_seconds`` have passed. Seeds torch's generators.

        Ctrl-C and SIGTERM end the run after the current step, which is saved; a second one ends it at once, and the
        last checkpoint stays.

        Raises ``DatasetError`` for documents that can't be trained on and ``WeightsError`` for weights that aren't
        finite, both before the first step. Raises ``DivergenceError`` where the loss or a gradient becomes NaN or
        infinite; the last checkpoint is from an earlier step. Raises ``MissingPackageError`` where the progress bar or
        the curves need a package.
        """
        if draw_curves:
            # A missing package is an error now, not after hours of work.
            with requires_extra("drawing curves"):
                import matplotlib  # noqa: F401
        began = time.monotonic()
        options = self.options
        for documents in (self.documents, *(() if self.held_out is None else (self.held_out,))):
            check_documents(documents, **self._bounds)
        _claim_folder(self.folder, options, len(self.documents), writes=self.ranks.leads)
        torch.manual_seed(options.seed)
        progress = (
            load_checkpoint(self.folder / CHECKPOINT_FOLDER, self.model, self.optimizer, steps=options.steps)
            or Progress()
        )
        check_weights(self.model.named_parameters())
        log = TrainingLog(self.folder / LOG_FILE, steps_done=progress.step) if self.ranks.leads else None
        out_of_time = False
        with (
            waiting_interrupts() as interrupts,
            _mode(self.model, training=True),
            self._progress_bar(progress.step, shown=show_progress and self.ranks.leads) as advance,
        ):
            while progress.step < options.steps and not out_of_time:
                report = self.step(progress.step)
                progress = progress.after(report.num_tokens, report.seconds)
                self._log_step(report, progress.step, log, advance)
                if options.max_seconds is not None:
                    out_of_time = self.ranks.largest(time.monotonic() - began >= options.max_seconds) > 0
                saves = out_of_time or self._due(progress.step, options.save_every)
                if saves:
                    self._save(report, progress)
                if self.on_step is not None:
                    self.on_step(progress.step)
                # All ranks end after the same step, whichever was told to.
                signal = self.ranks.largest(interrupts.received or 0)
                if signal:
                    if not saves:
                        self._save(report, progress)
                    interrupts.received = signal
                    interrupts.end()
        finished = progress.step == options.steps
        if finished and draw_curves and self.ranks.leads:
            plot_curves(self.folder / LOG_FILE, self.folder / CURVES_FILE)
        return TrainingResult(progress, finished)

    def _save(self, report: StepReport, progress: Progress) -> None:
        _check_finite(report, progress.step)
        save_checkpoint(self.folder / CHECKPOINT_FOLDER, self.model, self.optimizer, progress, self.ranks)

    def save_pretrained(self, folder: str | os.PathLike[str], **arguments: Any) -> None:
        """Write the model as its own ``save_pretrained`` does, whose arguments and errors are the same.

        All ranks must call this. The first one gathers the weights in its memory and writes.
        """
        state = None
        if any_divided(self.model.parameters()):
            state = gathered(self.model.state_dict(), keeps=self.ranks.leads)
        self.model.save_pretrained(folder, state_dict=state, is_main_process=self.ranks.leads, **arguments)
        self.ranks.wait()

    def step(self, step: int) -> StepReport:
        """Update the weights once, with the clipped gradients of the step's documents at the step's learning rate."""
        began = time.monotonic()
        self.ranks.seed(self.options.seed, step)
        documents = [self.documents[index] for index in self.order.batch(step)]
        sums = self.compute_gradients(documents)
        gradient_norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip))
        rate = learning_rate(step, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        num_tokens = int(self.ranks.total(sum(len(document) for document in documents)))
        return StepReport(sums, gradient_norm, rate, num_tokens, time.monotonic() - began)

    def compute_gradients(self, documents: Sequence[TokenDocument]) -> LossSums:
        """Accumulate the gradients of the mean loss over all targets of ``documents``, a micro-batch at a time.

        The weight of a target doesn't depend on the number of targets in its micro-batch. Several ranks pass their own
        documents each, and the mean and the sums are over those of all. Raises ``DatasetError`` where no document has a
        target.
        """
        batches = self._batches(documents)
        importance = self.ranks.total(sum(self._importance(batch) for batch in batches))
        if not importance:
            count = len(documents) * self.ranks.data_count
            raise DatasetError(f"none of the {count} documents of a step has a target; their masks are empty.")
        parts = []
        for batch in batches:
            sums = self._forward(batch)
            (sums.total / importance).backward()  # type: ignore[no-untyped-call]
            parts.append(sums.detach())
        return self._over_ranks(parts)

    @torch.no_grad()
    def evaluate(self, documents: Documents) -> Losses:
        """Return the mean losses of documents, without dropout. Several ranks share the work on the same documents."""
        size = (self.options.micro_batch_size or self.order.batch_size // self.ranks.data_count) * self.ranks.data_count
        parts = []
        with _mode(self.model, training=False):
            for start in range(0, len(documents), size):
                end = min(start + size, len(documents))
                own = range(start + self.ranks.data_rank, end, self.ranks.data_count)
                parts += [self._forward(batch) for batch in self._batches([documents[index] for index in own])]
        if self.ranks.data_count > 1:
            # Without a backward pass, the weights outside of the layers stay gathered.
            self.objective.reshard()  # type: ignore[operator]
        return Losses.of(self._over_ranks(parts))

    def _over_ranks(self, parts: Sequence[LossSums]) -> LossSums:
        return LossSums(*self.ranks.add(LossSums.add(parts)))

    def _batches(self, documents: Sequence[TokenDocument]) -> list[Batch]:
        """Return batches of at most a micro-batch of documents, of similar lengths, which need the least padding.

        Ranks have equally many, because in each all of them gather weights: those with fewer have empty ones, too.
        """
        options = self.options
        for document in documents:
            check_document(document, **self._bounds)
        size = options.micro_batch_size or max(1, len(documents))
        ordered = sorted(documents, key=len)
        batches: list[Batch] = []
        for start in range(0, len(ordered), size):
            chosen = ordered[start : start + size]
            batches += collate_batches(chosen, options.sequence_length, rows=options.rows)
        missing = self.ranks.largest(len(batches)) - len(batches)
        return batches + [Batch.empty()] * missing

    @property
    def _bounds(self) -> _Bounds:
        return {"vocab_size": self.model.config.vocab_size, "sequence_length": self.options.sequence_length}

    def _forward(self, batch: Batch) -> LossSums:
        device = self.model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16"):
            sums: LossSums = self.objective(batch.to(device))
        return sums

    def _log_step(self, report: StepReport, step: int, log: TrainingLog | None, advance: Advance) -> None:
        held_out = self.held_out if self._due(step, self.options.evaluate_every) else None
        if held_out is None and not self._due(step, self.options.log_every):
            return
        _check_finite(report, step)
        entry = {"step": step, **report.log_entry()}
        if held_out is not None:
            entry |= {f"held_out_{name}": value for name, value in asdict(self.evaluate(held_out)).items()}
        if log is not None:
            log.append(entry)
        advance(step, f"loss {entry['loss']:.3f}, {entry['tokens_per_second']:.0f} tokens/s")

    def _due(self, step: int, every: int) -> bool:
        """Return whether something is due after this step: every ``every`` steps (0: never), and after the last."""
        return step == self.options.steps or (every > 0 and step % every == 0)

    def _progress_bar(self, steps_done: int, *, shown: bool) -> contextlib.AbstractContextManager[Advance]:
        if not shown:
            return contextlib.nullcontext(lambda done, words: None)
        return progress_bar(total=self.options.steps, completed=steps_done)


def _claim_folder(folder: Path, options: TrainingOptions, num_documents: int, *, writes: bool) -> None:
    """Record the options of the run in its folder. Raises ``ConfigError`` where the folder holds another run."""
    path = folder / RUN_FILE
    if os.path.exists(path):
        found = read_json(path)
        try:
            before = TrainingOptions.from_dict(found["options"], source=str(path)).to_dict()
        except (KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{path} doesn't describe a run: {error!r}. Remove it to start over.") from error
        differing = {
            name: (before[name], value)
            for name, value in options.to_dict().items()
            if name not in options.changeable and before[name] != value
        }
        if found.get("num_documents") != num_documents:
            differing["num_documents"] = (found.get("num_documents"), num_documents)
        if differing:
            listed = "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in differing.items())
            raise ConfigError(f"{path} describes another run: {listed}. Use its options, or another folder.")
    if writes:
        write_json(path, {"num_documents": num_documents, "options": options.to_dict()})


def _check_finite(report: StepReport, step: int) -> None:
    loss, norm = float(report.sums.total), float(report.gradient_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergenceError(
            f"step {step}: the loss is {loss} and the norm of the gradients {norm}. Lower the learning rate, warm up "
            "longer, or keep qk_norm and the z-loss enabled. The last checkpoint is from an earlier step."
        )


@contextlib.contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)
