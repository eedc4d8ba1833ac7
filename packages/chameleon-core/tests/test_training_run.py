"""A run of training: gradients that don't depend on how the work is cut, and a run that can stop anywhere."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chameleon_core import (
    ChameleonForConditionalGeneration,
    ConfigError,
    FileFormatError,
    GenerationOptions,
    MissingPackageError,
    WeightsError,
)
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import (
    DatasetError,
    DivergenceError,
    TokenDocument,
    Trainer,
    TrainingOptions,
    merge_picture_rows,
    read_log,
    train_picture_rows,
)

OPTIONS = TrainingOptions(
    steps=8, batch_size=5, micro_batch_size=2, learning_rate=1e-2, warmup_steps=2, sequence_length=32, save_every=3
)


def documents(count: int = 12) -> list[TokenDocument]:
    random = np.random.default_rng(0)
    return [TokenDocument.of(str(index), random.integers(0, 64, 3 + index).tolist()) for index in range(count)]


def weights(model: ChameleonForConditionalGeneration) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def train(
    folder: Path, options: TrainingOptions = OPTIONS, on_step: Callable[[int], None] | None = None
) -> dict[str, Tensor]:
    """The weights at the end of a run, or at the end of this part of it."""
    model = make_model()
    Trainer(model, documents(), options, folder, on_step=on_step).run(draw_curves=False)
    return weights(model)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def without_times(log: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in read_log(log)]


def kill_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path, micro_batch_size: int) -> None:
    """Documents of all lengths, some of whose ids aren't targets: each target has the same weight wherever it falls."""
    chosen = [*documents(6), TokenDocument.with_answer("answer", [0, 4, 5, 6, 7, 8, 9, 10, 3, 11], separator_id=3)]
    found = []
    for index, size in enumerate((None, micro_batch_size)):
        model = make_model().double()
        options = OPTIONS.replace(batch_size=7, micro_batch_size=size)
        sums = Trainer(model, chosen, options, tmp_path / str(index)).compute_gradients(chosen)
        found.append((sums, [parameter.grad for parameter in model.parameters()]))
    whole, parts = found
    # The norms compute in float32 whatever the model is in.
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    expected = train(tmp_path / "kept")
    assert_equal(train(tmp_path / "again", OPTIONS.replace(gradient_checkpointing=True)), expected)


@pytest.mark.parametrize("killed_at", [1, 3, 4, 7])
def test_a_killed_run_ends_with_the_weights_of_one_that_wasnt(tmp_path: Path, killed_at: int) -> None:
    """Between two saves, at a save, and after the last one; dropout is on."""
    assert OPTIONS.dropout > 0
    expected = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", on_step=kill_at(killed_at))
    assert_equal(train(tmp_path / "killed"), expected)
    assert without_times(tmp_path / "killed" / "log.jsonl") == without_times(tmp_path / "whole" / "log.jsonl")


# Kills itself in the middle of the second save, after the weights and before what names them.
KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_training_run as run
from chameleon_core.training import checkpoints

saved = []
write_json = checkpoints.write_json
def write(path, data):
    saved.append(path)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write_json(path, data)
checkpoints.write_json = write
run.train(Path(sys.argv[2]))
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process by signal")
def test_a_process_killed_while_it_saves_goes_on_from_the_save_before(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLED_WHILE_SAVING, str(Path(__file__).parent), str(tmp_path / "killed")]
    killed = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    checkpoint = tmp_path / "killed" / "checkpoint"
    assert json.loads((checkpoint / "checkpoint.json").read_text())["progress"]["step"] == 3
    assert len(list(checkpoint.glob("weights-*"))) == 2
    assert_equal(train(tmp_path / "killed"), train(tmp_path / "whole"))
    assert len(list(checkpoint.iterdir())) == 3


def test_a_run_out_of_time_saves_and_goes_on_later(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole")
    model = make_model()
    trainer = Trainer(model, documents(), OPTIONS.replace(max_seconds=1e-9), tmp_path / "stages")
    results = [trainer.run(draw_curves=False) for _ in range(OPTIONS.steps)]
    assert [result.progress.step for result in results] == list(range(1, OPTIONS.steps + 1))
    assert [result.finished for result in results] == [False] * 7 + [True]
    assert_equal(weights(model), expected)


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    expected = train(tmp_path)
    log = (tmp_path / "log.jsonl").read_text()
    assert_equal(train(tmp_path), expected)
    assert (tmp_path / "log.jsonl").read_text() == log


def test_a_run_may_go_on_with_other_costs_but_not_as_another_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_step=kill_at(4))
    with pytest.raises(ConfigError, match=r"describes another run: learning_rate was 0\.01, is 0\.5"):
        train(tmp_path, OPTIONS.replace(learning_rate=0.5))
    with pytest.raises(ConfigError, match="num_documents was 12, is 5"):
        Trainer(make_model(), documents(5), OPTIONS, tmp_path).run(draw_curves=False)
    train(tmp_path, OPTIONS.replace(save_every=1, micro_batch_size=5))
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == OPTIONS.steps


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    train(tmp_path)
    other = make_model(make_config(intermediate_size=40, attention_bias=True, num_hidden_layers=1))
    with pytest.raises(WeightsError) as caught:
        Trainer(other, documents(), OPTIONS, tmp_path).run(draw_curves=False)
    message = str(caught.value)
    assert "missing: model.layers.0.self_attn.k_proj.bias" in message
    assert "unexpected: model.layers.1." in message
    assert "model.layers.0.mlp.down_proj.weight [32, 48], expected [32, 40]" in message


def test_a_damaged_description_of_a_run_is_named(tmp_path: Path) -> None:
    for text in ("{}", '{"options": []}', '{"options": {}}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(FileFormatError, match=r"run\.json doesn't describe a run"):
            train(tmp_path)


@pytest.mark.parametrize("pattern", ["weights-*", "state-*", "checkpoint.json"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, pattern: str) -> None:
    train(tmp_path)
    (path,) = (tmp_path / "checkpoint").glob(pattern)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(FileFormatError, match=re.escape(path.name)):
        train(tmp_path)


def test_the_log_has_a_line_a_step_and_measures_held_out_documents(tmp_path: Path) -> None:
    options = OPTIONS.replace(log_every=2, evaluate_every=3)
    trainer = Trainer(make_model(), documents(), options, tmp_path, held_out=documents(3))
    progress = trainer.run(draw_curves=False).progress
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]
    assert ["held_out_loss" in line for line in lines] == [False, True, False, True, True]
    for line in lines:
        assert line["loss"] > 0
        assert line["z"] > 0
        assert line["gradient_norm"] > 0
        assert line["tokens_per_second"] > 0
        assert 0 < line["learning_rate"] <= options.learning_rate
    assert lines[-1]["held_out_loss"] == trainer.evaluate(documents(3)).loss
    assert progress.num_tokens == sum(
        len(documents()[index]) for step in range(8) for index in trainer.order.batch(step)
    )


def test_a_log_that_was_cut_off_loses_its_last_line_and_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in read_log(path)] == [1, 2]
    path.write_text('{"step": 1}\nhello\n')
    with pytest.raises(FileFormatError, match=r"line 2 of .*log\.jsonl is not valid JSON"):
        read_log(path)


def test_curves_are_drawn_at_the_end_as_a_picture(tmp_path: Path) -> None:
    Trainer(make_model(), documents(), OPTIONS, tmp_path, held_out=documents(3)).run()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_bar_shows_the_steps_and_the_loss(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Trainer(make_model(), documents(), OPTIONS, tmp_path).run(show_progress=True, draw_curves=False)
    output = capfd.readouterr()
    assert "8/8" in output.err
    assert "loss" in output.err
    assert not output.out


def test_a_missing_package_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pip install './packages/chameleon-core\[train\]'"):
        Trainer(make_model(), documents(), OPTIONS, tmp_path).run()
    assert not (tmp_path / "log.jsonl").exists()


def test_a_loss_that_isnt_finite_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    model = make_model()
    trainer = Trainer(model, documents(), OPTIONS, tmp_path)

    def break_model(step: int) -> None:
        if step == 4:
            model.lm_head.weight.data.fill_(float("nan"))

    trainer.on_step = break_model
    with pytest.raises(DivergenceError, match="step 5: the loss is nan"):
        trainer.run(draw_curves=False)
    assert_equal(train(tmp_path), train(tmp_path / "whole"))


def test_documents_without_any_target_are_refused(tmp_path: Path) -> None:
    masked = [TokenDocument("a", np.array([1, 2, 3]), np.zeros(3, dtype=np.bool_))]
    with pytest.raises(DatasetError, match="none of the 5 documents of a step has a target"):
        Trainer(make_model(), masked, OPTIONS, tmp_path).run(draw_curves=False)
    with pytest.raises(DatasetError, match="none of the documents has a target"):
        Trainer(make_model(), documents(), OPTIONS, tmp_path).evaluate(masked)


def test_bfloat16_trains_float32_weights(tmp_path: Path) -> None:
    assert OPTIONS.precision == "float32"
    full = train(tmp_path / "float32")
    half = train(tmp_path / "bfloat16", OPTIONS.replace(precision="bfloat16"))
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    assert any(not torch.equal(half[name], tensor) for name, tensor in full.items())
    losses = [read_log(tmp_path / name / "log.jsonl")[0]["loss"] for name in ("float32", "bfloat16")]
    # Products with 8 bits of mantissa: 2⁻⁸ relative, a few of them in a row.
    assert losses[0] == pytest.approx(losses[1], rel=2**-6)


def test_picture_rows_train_alone(tmp_path: Path) -> None:
    model = make_model()
    before = weights(model)
    train_picture_rows(model)
    Trainer(model, documents(), OPTIONS, tmp_path).run(draw_curves=False)
    merge_picture_rows(model)
    after = weights(model)
    changed = (after["lm_head.weight"] != before["lm_head.weight"]).any(dim=1)
    assert set(torch.nonzero(changed)[:, 0].tolist()) == model.layout.picture_ids
    assert_equal({**after, "lm_head.weight": before["lm_head.weight"]}, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_picture_rows_of_a_tied_output_layer_cant_train_alone() -> None:
    with pytest.raises(ConfigError, match="tied to the embeddings"):
        train_picture_rows(make_model(make_config(tie_word_embeddings=True)))
    model = make_model()
    with pytest.raises(ConfigError, match="aren't separate"):
        merge_picture_rows(model)
    train_picture_rows(model)
    with pytest.raises(ConfigError, match="train already"):
        train_picture_rows(model)


def test_a_tiny_model_learns_to_draw_and_to_caption(tmp_path: Path) -> None:
    """Six names and their pictures, both ways, the loss on answers only; then it answers what it was taught."""
    model = make_model(seed=1)
    layout = model.layout
    names = torch.nonzero(layout.text_allowed_V)[:6, 0].tolist()
    pictures = layout.code_to_id_Z[torch.randperm(16, generator=torch.Generator().manual_seed(0))].tolist()
    prompts, answers = [], []
    for index, name in enumerate(names):
        drawn = pictures[2 * index : 2 * index + 2] * 2
        picture = [layout.begin_image_id, *drawn, layout.end_image_id]
        prompts += [[layout.bos_id, name, layout.separator_id], [layout.bos_id, *picture, layout.separator_id]]
        answers += [[*picture, layout.eos_id], [name, layout.eos_id]]
    taught = [
        TokenDocument.with_answer(str(index), [*prompt, *answer], separator_id=layout.separator_id)
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    options = TrainingOptions.finetuning(
        steps=80, batch_size=12, learning_rate=1e-2, dropout=0.0, sequence_length=32, warmup_steps=5
    )
    Trainer(model, taught, options, tmp_path).run(draw_curves=False)
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert last["text_loss"] < 0.05
    assert last["picture_loss"] < 0.05
    greedy = GenerationOptions(modality="interleaved", max_new_tokens=8)
    for prompt, answer in zip(prompts, answers, strict=True):
        written = model.generate(torch.tensor([prompt]), options=greedy)[0, len(prompt) :].tolist()
        assert written == answer


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupted_run_is_saved_after_its_step_and_ends_as_another(
    tmp_path: Path, number: int, raised: type[BaseException]
) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(raised):
        train(tmp_path / "run", on_step=lambda step: send(number) if step == 4 else None)
    pointer = json.loads((tmp_path / "run" / "checkpoint" / "checkpoint.json").read_text())
    assert pointer["progress"]["step"] == 4
    assert_equal(train(tmp_path / "run"), whole)


def test_a_second_interrupt_while_a_run_is_saved_leaves_the_save_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    save = torch.save

    def interrupted(state: Any, path: Path) -> None:
        save(state, path)
        if any(path.parents[1].glob("weights-0000004-*")):
            send(signal.SIGINT)

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", on_step=lambda step: send(signal.SIGINT) if step == 4 else None)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is before
    pointer = json.loads((tmp_path / "run" / "checkpoint" / "checkpoint.json").read_text())
    assert pointer["progress"]["step"] == 3
    assert_equal(train(tmp_path / "run"), train(tmp_path / "whole"))
