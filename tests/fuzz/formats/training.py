"""What chameleon-core reads of training: datasets, the state of runs, adapters."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from random import Random

import torch

from chameleon_core import ChameleonConfig, ChameleonCoreError, ChameleonForConditionalGeneration
from chameleon_core.training import (
    TokenDataset,
    TokenDatasetWriter,
    TokenDocument,
    Trainer,
    TrainingOptions,
    add_lora,
    load_lora,
    read_log,
)
from chameleon_core.training_job import JobOptions, NewModelOptions
from chameleon_core.training_job.record import Job, read_job

from ..engine import Files, Format, Unsound, check_within
from ..mutations import mutate_json, mutate_lines, mutate_pickle, mutate_safetensors
from . import seeds

SHARD, META = "tokens-00000.safetensors", "dataset.json"
HASH, VOCABULARY = "abc", 300


def _dataset_files() -> Files:
    def save(folder: Path) -> None:
        with TokenDatasetWriter(folder, tokenizer_hash=HASH, vocab_size=VOCABULARY) as writer:
            for number in range(4):
                writer.add(TokenDocument.of(f"document {number}", range(number, 2 * number + 3)))
            writer.add(TokenDocument.with_answer("é", [1, 2, 9, 4, 5], separator_id=9))

    return seeds.written(save)


def _read_dataset(folder: Path) -> None:
    dataset = TokenDataset(folder)
    keys = list(dataset.keys())
    if len(keys) != len(dataset):
        raise Unsound(f"{len(keys)} keys of {len(dataset)} documents")
    for document in dataset:
        check_within(f"ids of a document, {document.key!r}", document.ids.astype("int64"), dataset.meta.vocab_size)
        if not isinstance(document.key, str):
            raise Unsound(f"the key of a document is {document.key!r}")
    for key in keys:
        dataset.find(key)
    with TokenDatasetWriter(folder, tokenizer_hash=HASH, vocab_size=VOCABULARY) as writer:
        writer.add(TokenDocument.of("one more", [1, 2]))


def _documents() -> list[TokenDocument]:
    return [TokenDocument.of(str(number), [0, 50 + number, 60, 2]) for number in range(2)]


@seeds.cache
def _trained_model() -> ChameleonForConditionalGeneration:
    # Of its own: a run changes it.
    return seeds.model()


def _run(folder: Path) -> None:
    options = TrainingOptions(steps=1, batch_size=2, warmup_steps=0, sequence_length=16, dropout=0.0)
    Trainer(_trained_model(), _documents(), options, folder).run(draw_curves=False)


@seeds.cache
def _run_files() -> Files:
    """A finished run, without the names and times that differ from run to run."""
    files = seeds.written(_run)
    pointer = json.loads(files["checkpoint/checkpoint.json"])
    pointer["progress"]["seconds"] = 0.5
    for key, name in (("weights", "weights-1.safetensors"), ("state", "state-1.pt")):
        files[f"checkpoint/{name}"] = files.pop(f"checkpoint/{pointer[key]}")
        pointer[key] = name
    files["checkpoint/state-1.pt"] = seeds.resaved(files["checkpoint/state-1.pt"])
    entry = json.loads(files["log.jsonl"]) | {"tokens_per_second": 10.5}
    log = json.dumps(entry).encode() + b"\n"
    return {**files, "checkpoint/checkpoint.json": json.dumps(pointer).encode(), "log.jsonl": log}


def _read_log(folder: Path) -> None:
    for entry in read_log(folder / "log.jsonl"):
        check_within("the steps of a log", [entry["step"] % 2], 2)


def _job_files() -> Files:
    new = NewModelOptions(image_tokenizer="emoji", text_size=300)
    options = JobOptions(lora=4, lora_targets=("q_proj",), held_out=2)
    training = {"steps": 3, "betas": (0.9, 0.95), "precision": "float32"}
    job = Job(new=new, config=ChameleonConfig(hidden_size=64), options=options, training=training)
    return {"job.json": json.dumps(job.to_dict()).encode()}


def _read_job(folder: Path) -> None:
    job = read_job(folder)
    job.check()
    if job.options.held_out is not None:
        check_within("the held-out documents", [min(job.options.held_out, 0)], 1)


def _lora_files() -> Files:
    def save(folder: Path) -> None:
        model = seeds.model()
        torch.manual_seed(0)
        add_lora(model, rank=2).save_pretrained(folder)

    files = {name: data for name, data in seeds.written(save).items() if name.startswith("adapter")}
    config = json.loads(files["adapter_config.json"])
    config["target_modules"].sort()  # a set's order, which differs from run to run
    return {**files, "adapter_config.json": json.dumps(config).encode()}


def _load_lora(folder: Path) -> None:
    load_lora(seeds.model(), folder)


def _mutate_lora(random: Random, files: Files) -> list[str]:
    if random.random() < 0.6:
        words = ("peft_type", "LORA", "r", "lora_alpha", "target_modules", "lm_head", "all-linear", "task_type", "bias")
        return mutate_json("adapter_config.json", words)(random, files)
    return mutate_safetensors("adapter_model.safetensors")(random, files)


core = partial(Format, error=ChameleonCoreError)
DATASET = "TokenDataset, TokenDatasetWriter"
FORMATS = (
    core("core-dataset", _dataset_files, mutate_json(META), _read_dataset, what=f"{META}: {DATASET}", share=3),
    core(
        "core-shard",
        _dataset_files,
        mutate_safetensors(SHARD, json_tensors=("keys",)),
        _read_dataset,
        what=f"{SHARD}: {DATASET}",
        share=4,
    ),
    core(
        "core-run", _run_files, mutate_json("run.json"), _run, what="run.json of a finished run: Trainer.run", share=0.5
    ),
    core(
        "core-pointer",
        _run_files,
        mutate_json("checkpoint/checkpoint.json", ("..", "../run.json", "state-1.pt")),
        _run,
        what="checkpoint.json of a finished run: Trainer.run",
        share=0.3,
    ),
    core(
        "core-state",
        _run_files,
        mutate_pickle("checkpoint/state-1.pt"),
        _run,
        what="state-*.pt of a finished run: Trainer.run",
        share=0.3,
    ),
    core(
        "core-trained",
        _run_files,
        mutate_safetensors("checkpoint/weights-1.safetensors"),
        _run,
        what="weights-*.safetensors of a finished run: Trainer.run",
        share=0.3,
    ),
    core(
        "core-job",
        _job_files,
        mutate_json("job.json", ("model", "steps", "epochs", "quantization", "rope_scaling")),
        _read_job,
        what="job.json of a training command: chameleon_core.training_job",
        share=0.5,
    ),
    core(
        "core-log",
        lambda: {"log.jsonl": _run_files()["log.jsonl"] * 3},
        mutate_lines("log.jsonl", ("step",)),
        _read_log,
        what="log.jsonl: read_log",
        share=2,
    ),
    core(
        "core-lora",
        _lora_files,
        _mutate_lora,
        _load_lora,
        what="an adapter's folder: load_lora",
        share=0.1,
        needs="peft",
    ),
)
