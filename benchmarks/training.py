"""Tokens per second of training, beside a plain loop over ``transformers`` in the same run.

Both sides have the same weights, documents and options, and their losses and the norms of their gradients must agree
before they are timed. The plain loop is what one writes without a trainer: padded batches, ``model(labels=...)``,
clipped gradients, torch's AdamW. Picture codes aren't masked on either side. Steps alternate, so that other load on the
machine slows both; the best ones count, as wall-clock and as processor time. Tokens are those of the documents, without
padding.

    python benchmarks/training.py                          # a document fills each row
    python benchmarks/training.py --lengths mixed          # documents of mixed lengths
    python benchmarks/training.py --memory                 # the largest memory of each side, in a process of its own
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers
from torch import Tensor

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.testing import make_vocabulary
from chameleon_core.training import BatchOrder, Losses, TokenDocument, Trainer, TrainingOptions

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256, help="hidden width (default: 256)")
    parser.add_argument("--layers", type=int, default=4, help="layers (default: 4)")
    parser.add_argument("--vocabulary", type=int, default=65536, help="ids (default: 65536)")
    parser.add_argument("--length", type=int, default=256, help="ids of the longest document (default: 256)")
    parser.add_argument("--batch", type=int, default=8, help="documents per step (default: 8)")
    parser.add_argument("--lengths", choices=("equal", "mixed"), default="equal", help="of documents (default: equal)")
    parser.add_argument("--precision", choices=PRECISIONS, help="one of the two (default: both)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each side (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for precision in (arguments.precision,) if arguments.precision else PRECISIONS:
        if arguments.side is not None:
            steps(arguments, precision)[arguments.side](0)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        elif arguments.memory:
            memory = [side_memory(side, precision) for side in ("ours", "theirs")]
            print(f"{precision}: {memory[0]} MiB, transformers {memory[1]} MiB")
        else:
            measure(arguments, precision)


def measure(arguments: argparse.Namespace, precision: str) -> None:
    """Print each side's tokens per second, and their ratio."""
    sides = steps(arguments, precision)
    (our_loss, our_norm), (loss, norm) = (step(0) for step in sides.values())
    tolerance = 1e-4 if precision == "float32" else 2e-2
    if abs(our_loss / loss - 1) > tolerance or abs(our_norm / norm - 1) > tolerance:
        raise SystemExit(
            f"the two sides differ, so their times can't be compared: losses {our_loss} and {loss}, norms of gradients "
            f"{our_norm} and {norm}."
        )
    best = {name: (float("inf"), float("inf")) for name in sides}
    for _ in range(arguments.steps):
        for name, step in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            step(0)  # the same documents each time, so that all steps cost the same
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            best[name] = min(best[name][0], wall), min(best[name][1], processor)
    tokens = sum(map(len, batch(arguments, documents(arguments), 0)))
    for name, (wall, processor) in best.items():
        print(f"{precision:9} {name:6} {tokens / wall:9.0f} tokens/s   {processor:6.2f} s of processor time a step")
    ratios = [theirs / ours for ours, theirs in zip(*best.values(), strict=True)]
    print(f"{precision:9} ratio  {ratios[0]:9.2f}            {ratios[1]:6.2f}")


def side_memory(side: str, precision: str) -> int:
    """Return the most MiB that a process with one step of one side held, imports and weights included."""
    command = [sys.executable, *sys.argv, "--side", side, "--precision", precision]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def steps(arguments: argparse.Namespace, precision: str) -> dict[str, Callable[[int], tuple[float, float]]]:
    """Return what to time: each call makes a step and returns its loss and the norm of its gradients."""
    vocabulary = make_vocabulary(num_codes=arguments.vocabulary // 8, size=arguments.vocabulary)
    shape = {
        "vocab_size": len(vocabulary),
        "hidden_size": arguments.width,
        "intermediate_size": arguments.width * 43 // 16,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.width // 64,
        "num_key_value_heads": arguments.width // 64,
        "vocabulary_map": vocabulary,
        "bos_token_id": vocabulary["<s>"],
        "eos_token_id": vocabulary["</s>"],
        "pad_token_id": vocabulary["<pad>"],
    }
    torch.manual_seed(0)
    ours = ChameleonForConditionalGeneration(ChameleonConfig(**shape)).to(arguments.device)
    chosen = documents(arguments)
    return {
        "ours": our_step(ours, chosen, arguments, precision),
        "theirs": their_step(shape, ours.state_dict(), chosen, arguments, precision),
    }


def documents(arguments: argparse.Namespace) -> list[TokenDocument]:
    """Return documents of random ids."""
    generator = np.random.default_rng(0)
    lengths = np.full(64, arguments.length)
    if arguments.lengths == "mixed":
        lengths = np.exp(generator.normal(np.log(arguments.length / 4), 1.0, 64)).astype(int).clip(2, arguments.length)
    return [TokenDocument.of(str(n), generator.integers(4, arguments.vocabulary, k)) for n, k in enumerate(lengths)]


def batch(arguments: argparse.Namespace, documents: list[TokenDocument], step: int) -> list[TokenDocument]:
    """Return the documents of a step, which both sides take."""
    order = BatchOrder(len(documents), batch_size=arguments.batch, seed=0)
    return [documents[index] for index in order.batch(step)]


def our_step(
    model: ChameleonForConditionalGeneration,
    documents: list[TokenDocument],
    arguments: argparse.Namespace,
    precision: str,
) -> Callable[[int], tuple[float, float]]:
    """Return a step of the trainer."""
    options = TrainingOptions(
        steps=1000,
        batch_size=arguments.batch,
        warmup_steps=0,
        dropout=0.0,
        z_loss=0.0,
        sequence_length=arguments.length,
        precision=precision,  # type: ignore[arg-type]
    )
    trainer = Trainer(model, documents, options, tempfile.gettempdir())
    model.train()

    def step(number: int) -> tuple[float, float]:
        report = trainer.step(number)
        return Losses.of(report.sums).loss, float(report.gradient_norm)

    return step


def their_step(
    shape: dict[str, object],
    weights: dict[str, Tensor],
    documents: list[TokenDocument],
    arguments: argparse.Namespace,
    precision: str,
) -> Callable[[int], tuple[float, float]]:
    """Return a step of a plain loop over the model of ``transformers``."""
    model = (
        transformers.ChameleonForConditionalGeneration(transformers.ChameleonConfig(**shape))
        .train()
        .to(arguments.device)
    )
    model.load_state_dict(weights, strict=False)
    # So that the softmax is over all ids on both sides, and spares that side the masking.
    model.model.vocabulary_mapping.__dict__["image_tokens"] = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)

    def step(number: int) -> tuple[float, float]:
        chosen = batch(arguments, documents, number)
        width = max(map(len, chosen))
        ids_BT = torch.zeros(len(chosen), width, dtype=torch.int64)
        labels_BT, mask_BT = torch.full_like(ids_BT, -100), torch.zeros_like(ids_BT)
        for row, document in enumerate(chosen):
            ids_BT[row, : len(document)] = labels_BT[row, : len(document)] = torch.from_numpy(
                document.ids.astype("int64")
            )
            mask_BT[row, : len(document)] = 1
        ids_BT, labels_BT, mask_BT = (each.to(arguments.device) for each in (ids_BT, labels_BT, mask_BT))
        with torch.autocast(arguments.device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach()), float(norm)

    return step


if __name__ == "__main__":
    main()
