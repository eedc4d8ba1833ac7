"""What training refuses before its first step: documents by name, weights by name, a model that is all frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chameleon_core import (
    ChameleonCoreError,
    ConfigError,
    ContextLengthError,
    FileFormatError,
    VocabularyError,
    WeightsError,
)
from chameleon_core.testing import make_model
from chameleon_core.training import DatasetError, TokenDataset, TokenDatasetWriter, TokenDocument, Trainer, read_log
from chameleon_core.training.options import TrainingOptions

OPTIONS = TrainingOptions(steps=1, batch_size=1, warmup_steps=0, sequence_length=8)
FINE = TokenDocument.of("fine", [1, 2, 3])


class Computed:
    """Documents that are made when they are asked for."""

    def __init__(self, documents: Sequence[TokenDocument]) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> TokenDocument:
        return self.documents[index]


def run(folder: Path, documents: Any, **others: Any) -> None:
    Trainer(make_model(), documents, OPTIONS, folder, **others).run(draw_curves=False)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 64, 2], "document 'bad' has the id 64 at position 1"),
        ([1, 2, 64], "document 'bad' has the id 64 at position 2"),
        ([1, 2, -100], r"document 'bad' has the id -100 at position 2.*trained="),
        ([2**62, 1], "document 'bad' has the id 4611686018427387904"),
        ([], "document 'bad' has 0 ids"),
        ([5], "document 'bad' has 1 ids"),
    ],
    ids=str,
)
def test_a_bad_document_is_named_before_any_work(tmp_path: Path, ids: list[int], message: str) -> None:
    documents = [FINE, FINE, TokenDocument.of("bad", ids)]
    with pytest.raises(DatasetError, match=message):
        run(tmp_path / "run", documents)
    with pytest.raises(DatasetError, match=message):
        run(tmp_path / "run", [FINE], held_out=documents)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DatasetError, match=message):
        run(tmp_path / "computed", Computed(documents[2:]))


def test_a_document_that_is_longer_than_a_row_is_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ContextLengthError, match="document 'long' has 10 ids"):
        run(tmp_path / "run", [FINE, TokenDocument.of("long", [1] * 10)])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("ids", "error"), [([1, 99], DatasetError), ([1], DatasetError), ([1] * 10, ContextLengthError)]
)
def test_a_bad_document_of_a_dataset_is_named_whatever_its_shard(
    tmp_path: Path, ids: list[int], error: type[ChameleonCoreError]
) -> None:
    for place in range(4):
        folder = tmp_path / str(place)
        with TokenDatasetWriter(folder, tokenizer_hash="t", vocab_size=100) as writer:
            for index in range(4):
                writer.add(TokenDocument.of(f"d{index}", ids if index == place else [1, 2, index]))
                if index == 1:
                    writer.flush()
        with pytest.raises(error, match=f"document 'd{place}' has"):
            run(tmp_path / "run", TokenDataset(folder))


def test_a_trainer_s_repr_is_one_line(tmp_path: Path) -> None:
    trainer = Trainer(make_model(), [FINE], OPTIONS, tmp_path)
    assert repr(trainer) == f"Trainer({str(tmp_path)!r}, documents=<1 documents>, steps={OPTIONS.steps})"


def test_nothing_that_trains_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the model requires gradients"):
        Trainer(model, [FINE], OPTIONS, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight.data[3, 2] = value
    with pytest.raises(WeightsError, match=r"model\.layers\.1\.mlp\.up_proj\.weight\."):
        Trainer(model, [FINE], OPTIONS, tmp_path).run(draw_curves=False)


def test_large_weights_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    model = make_model()
    model.model.norm.weight.data.fill_(3e38)
    model.lm_head.weight.data.zero_()
    with pytest.raises(ChameleonCoreError) as raised:
        Trainer(model, [FINE], OPTIONS, tmp_path).run(draw_curves=False)
    assert not isinstance(raised.value, WeightsError)


@pytest.mark.parametrize("ids", [[1.5, 2], [[1, 2], [3]], [2**70], "words", None, [None], ["1"]], ids=str)
def test_ids_that_are_not_integers_are_refused(ids: Any) -> None:
    with pytest.raises(DatasetError, match="document 'bad'"):
        TokenDocument.of("bad", ids)
    with pytest.raises(DatasetError, match="document 'bad'"):
        TokenDocument.with_answer("bad", ids, separator_id=2)


@pytest.mark.parametrize("ids", [[1, 2], None, torch.tensor([1, 2])], ids=str)
def test_a_document_of_anything_but_an_array_is_refused(ids: Any) -> None:
    with pytest.raises(DatasetError, match="document 'bad'"):
        TokenDocument("bad", ids)
    with pytest.raises(DatasetError, match="document 'bad'"):
        TokenDocument("bad", np.array([1, 2]), [True, True])  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [64, -1, -101])
def test_labels_outside_the_vocabulary_are_named(label: int) -> None:
    with pytest.raises(VocabularyError, match=rf"labels\[0, 2\] is {label}; expected ids 0…63, or -100"):
        make_model()(torch.tensor([[30, 2, 3]]), labels=torch.tensor([[-100, 2, label]]))


@pytest.mark.parametrize("token_id", [64, -1, -100])
def test_input_ids_outside_the_vocabulary_are_named(token_id: int) -> None:
    with pytest.raises(VocabularyError, match=rf"is {token_id}, which is outside the vocabulary; expected 0…63"):
        make_model()(torch.tensor([[1, token_id, 3]]))


@pytest.mark.parametrize(
    "line", [b"\xff", b"[" * 100_000, b'{"step": ' + b"1" * 5000 + b"}", b"[1]", b"null", b'{"step": true}', b'"step"']
)
def test_a_line_that_is_no_entry_of_a_log_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(FileFormatError, match=r"line 2 of .*log\.jsonl (is not|nests)"):
        read_log(path)
