"""Programs that train: transformers' Trainer, peft, accelerate and TRL, each with the same numbers on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import peft
import pytest
import torch
import transformers
import trl
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.parity.clients.conftest import SIDES, Side

from chameleon_core import ChameleonForConditionalGeneration

# The peer renames its arguments of checkpointing.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]

TEXTS = ["The quick brown fox", "Once upon a time", "A b c d e", "the end of it"] * 4


@pytest.fixture
def rows(sides: dict[str, Side]) -> datasets.Dataset:
    """Texts of one length as ids and labels."""
    tokenizer = sides["theirs"].processor.tokenizer
    batch = [tokenizer(text)["input_ids"][:5] for text in TEXTS]
    return datasets.Dataset.from_dict({"input_ids": batch, "labels": batch, "attention_mask": [[1] * 5] * len(batch)})


def trainer(model: Any, folder: Path, rows: datasets.Dataset, **changes: Any) -> transformers.Trainer:
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        **changes,
    }
    return transformers.Trainer(
        model=model, args=transformers.TrainingArguments(**arguments), train_dataset=rows, eval_dataset=rows
    )


def losses(ran: transformers.Trainer) -> list[float]:
    return [each[key] for each in ran.state.log_history for key in ("loss", "eval_loss") if key in each]


def test_the_trainer_trains_evaluates_saves_and_resumes(
    sides: dict[str, Side], checkpoint: Path, tmp_path: Path, rows: datasets.Dataset
) -> None:
    found = {}
    for name in SIDES:
        ran = trainer(sides[name].model, tmp_path / name, rows)
        ran.train()
        found[name] = losses(ran)
    assert len(found["ours"]) == 6
    torch.testing.assert_close(found["ours"], found["theirs"], rtol=1e-3, atol=1e-3)

    # Of a model that isn't its own library's, a checkpoint has the weights alone; what the model saves is a folder.
    trained = sides["ours"].model.state_dict()
    torch.testing.assert_close(load_file(tmp_path / "ours" / "checkpoint-4" / "model.safetensors"), dict(trained))
    sides["ours"].model.save_pretrained(tmp_path / "whole")
    peer = transformers.ChameleonForConditionalGeneration.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(peer.lm_head.weight, trained["lm_head.weight"])
    # Resuming from the middle comes to the same end.
    resumed = ChameleonForConditionalGeneration.from_pretrained(checkpoint)
    resumed.masks_picture_codes = True
    trainer(resumed, tmp_path / "again", rows).train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-2"))
    # Of logits: the gradient of a key's bias is rounding alone, and Adam's steps make as much of it as of any other.
    ids = torch.tensor(rows["input_ids"][:4])
    with torch.no_grad():
        found, expected = (each.eval()(ids).logits for each in (resumed, sides["ours"].model))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_trainer_checkpoints_activations(sides: dict[str, Side], tmp_path: Path, rows: datasets.Dataset) -> None:
    plain = trainer(sides["theirs"].model, tmp_path / "plain", rows)
    plain.train()
    less = trainer(sides["ours"].model, tmp_path / "less", rows, activation_checkpointing=True)
    less.train()
    assert sides["ours"].model.is_gradient_checkpointing
    torch.testing.assert_close(losses(less), losses(plain), rtol=1e-3, atol=1e-3)


def test_adapters_of_peft_train_save_load_and_merge(
    sides: dict[str, Side], loaded: dict[str, Side], tmp_path: Path
) -> None:
    ids = torch.tensor([[0, 40, 41, 42, 43]])
    logits: dict[str, Any] = {}
    for name in SIDES:
        torch.manual_seed(0)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "lm_head"], init_lora_weights="gaussian"
        )
        adapted = peft.get_peft_model(sides[name].model, config)
        optimizer = torch.optim.SGD([each for each in adapted.parameters() if each.requires_grad], lr=1.0)
        for _ in range(3):
            adapted(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        adapted.save_pretrained(tmp_path / name)
        adapted.eval()
        with torch.no_grad():
            logits[name] = adapted(input_ids=ids).logits
    text = loaded["ours"].model.layout.text_allowed_V
    torch.testing.assert_close(logits["ours"][..., text], logits["theirs"][..., text], rtol=1e-3, atol=1e-4)
    # Each side's adapter, on a fresh model of ours.
    for name in SIDES:
        fresh = ChameleonForConditionalGeneration.from_pretrained(loaded["ours"].model.source)
        fresh.masks_picture_codes = True
        read = peft.PeftModel.from_pretrained(fresh, tmp_path / name).eval()
        with torch.no_grad():
            torch.testing.assert_close(read(input_ids=ids).logits, logits["ours"], rtol=1e-3, atol=1e-4)
            generated = read.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
            merged = read.merge_and_unload()
            torch.testing.assert_close(merged(input_ids=ids).logits, logits["ours"], rtol=1e-3, atol=1e-4)
            assert (merged.generate(input_ids=ids, max_new_tokens=4, do_sample=False) == generated).all()


def test_accelerate_prepares_saves_and_loads(sides: dict[str, Side], tmp_path: Path) -> None:
    ids = torch.tensor([[0, 40, 41, 42, 43]])
    model = sides["ours"].model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(prepared(input_ids=ids, labels=ids).loss)
    optimizer.step()
    accelerator.save_state(str(tmp_path / "state"))
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer.step()
    assert any((tensor != saved[name]).any() for name, tensor in model.state_dict().items())
    accelerator.load_state(str(tmp_path / "state"))
    torch.testing.assert_close(dict(model.state_dict()), saved)
    accelerator.unwrap_model(prepared).save_pretrained(
        tmp_path / "model", is_main_process=accelerator.is_main_process, save_function=accelerator.save
    )
    again = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(dict(again.state_dict()), saved)


def test_supervised_finetuning_of_trl(sides: dict[str, Side], tmp_path: Path) -> None:
    found = {}
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    for name in SIDES:
        arguments = trl.SFTConfig(
            output_dir=str(tmp_path / name),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            max_length=16,
        )
        tokenizer = sides["theirs"].processor.tokenizer
        ran = trl.SFTTrainer(model=sides[name].model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        ran.train()
        found[name] = [each["loss"] for each in ran.state.log_history if "loss" in each]
    assert len(found["ours"]) == 2
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-3)
