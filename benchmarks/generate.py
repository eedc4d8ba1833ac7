"""Tokens per second of greedy generation on a CPU, beside ``transformers`` in the same run.

A model of 4 layers, 256 wide, with the 65,536 ids of the published vocabulary, so that the output layer and the work
per token matter as much as in a full model. Both sides have the same random weights and must generate the same ids.
Repeats alternate, so that other load on the machine slows both; the medians are printed with their ratio.

    python benchmarks/generate.py              # text, ours and transformers'
    python benchmarks/generate.py --picture    # our tokens per second inside a picture, with and without guidance
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import transformers
from torch import Tensor

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration, GenerationOptions
from chameleon_core.testing import make_vocabulary

VOCABULARY = make_vocabulary(num_codes=8192, size=65536)
SHAPE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocabulary_map": VOCABULARY,
    "bos_token_id": VOCABULARY["<s>"],
    "eos_token_id": VOCABULARY["</s>"],
    "pad_token_id": VOCABULARY["<pad>"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", action="store_true", help="measure our own speed inside a picture instead")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of text per run (default: 128)")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt (default: 16)")
    parser.add_argument("--batch", type=int, default=1, help="rows of the batch (default: 1)")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each side (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    ours = ChameleonForConditionalGeneration(ChameleonConfig(**SHAPE)).eval()
    words = ours.layout.text_allowed_V.nonzero()[:, 0]
    prompt_BT = words[torch.randint(len(words), (arguments.batch, arguments.prompt))]
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {arguments.repeats} repeats, prompt {prompt_BT.shape}"
    )
    if arguments.picture:
        runs = picture_runs(ours, prompt_BT)
    else:
        runs = text_runs(ours, prompt_BT, arguments.tokens)
    speeds = measure(runs, arguments.repeats)
    for name, (wall, processor) in speeds.items():
        print(
            f"{name:32} {wall:8.1f} tokens/s   {1000 / wall:6.2f} ms per token"
            f"   {1000 / processor:6.2f} ms of processor time"
        )
    if not arguments.picture:
        print(f"ratio: {speeds['chameleon-core'][0] / speeds['transformers'][0]:.2f}")


def text_runs(ours: ChameleonForConditionalGeneration, prompt_BT: Tensor, tokens: int) -> dict[str, Callable[[], int]]:
    """Return what to time: each call generates, and returns how many ids it wrote."""
    theirs = transformers.ChameleonForConditionalGeneration(transformers.ChameleonConfig(**SHAPE)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    mask_BT = torch.ones_like(prompt_BT)

    def run_ours() -> Tensor:
        return ours.generate(prompt_BT, mask_BT, max_new_tokens=tokens)

    def run_theirs() -> Tensor:
        return theirs.generate(input_ids=prompt_BT, attention_mask=mask_BT, max_new_tokens=tokens, do_sample=False)

    if not torch.equal(run_ours(), run_theirs()):
        raise SystemExit("the two sides generated different ids, so their times can't be compared.")
    new = prompt_BT.numel()
    return {
        "chameleon-core": lambda: run_ours().numel() - new,
        "transformers": lambda: run_theirs().numel() - new,
    }


def picture_runs(ours: ChameleonForConditionalGeneration, prompt_BT: Tensor) -> dict[str, Callable[[], int]]:
    """Return what to time: each call writes one picture per row, 1,026 ids."""
    plain = GenerationOptions(modality="image", do_sample=True, temperature=0.7, top_p=0.9, seed=0)
    guided = plain.replace(guidance_text=3.0, guidance_image=1.2)
    options: Mapping[str, GenerationOptions] = {
        "greedy": GenerationOptions(modality="image"),
        "sampled": plain,
        "sampled, guidance 3.0 and 1.2": guided,
    }
    return {
        name: lambda option=option: ours.generate(prompt_BT, options=option).numel() - prompt_BT.numel()
        for name, option in options.items()
    }


def measure(runs: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, tuple[float, float]]:
    """Return the medians of each one's ids per second, and per second of processor time; their repeats alternate."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            count = run()
            speeds[name].append((count / (time.perf_counter() - wall), count / (time.process_time() - processor)))
    return {
        name: (statistics.median(wall for wall, _ in values), statistics.median(each for _, each in values))
        for name, values in speeds.items()
    }


if __name__ == "__main__":
    main()
