"""Token documents on disk: what was written is read, whatever stopped the writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from chameleon_core import ConfigError, FileFormatError
from chameleon_core.training import (
    BatchOrder,
    DatasetError,
    TokenDataset,
    TokenDatasetWriter,
    TokenDocument,
    TrainingLog,
)


@st.composite
def token_documents(draw: st.DrawFn) -> list[TokenDocument]:
    keys = draw(st.lists(st.text(max_size=8), unique=True, max_size=8))
    documents = []
    for key in keys:
        ids = draw(st.lists(st.integers(0, 2**16 - 1), max_size=12))
        trained = draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        mask = None if trained is None else np.array(trained, dtype=np.bool_)
        documents.append(TokenDocument(key, np.array(ids, dtype=np.int64), mask))
    return documents


def write(folder: Path, documents: Sequence[TokenDocument], *, shard_size: int = 16) -> TokenDataset:
    with TokenDatasetWriter(folder, tokenizer_hash="t", vocab_size=2**16, shard_size=shard_size) as writer:
        for document in documents:
            if document.key not in writer:
                writer.add(document)
    return TokenDataset(folder)


def mask_of(document: TokenDocument) -> list[bool]:
    return [True] * len(document) if document.trained is None else document.trained.tolist()


def assert_same(found: TokenDocument, expected: TokenDocument) -> None:
    assert found.key == expected.key
    assert found.ids.tolist() == expected.ids.tolist()
    assert mask_of(found) == mask_of(expected)


@given(documents=token_documents(), shard_size=st.integers(1, 40))
def test_what_was_written_is_read_in_order(
    tmp_path_factory: pytest.TempPathFactory, documents: list[TokenDocument], shard_size: int
) -> None:
    dataset = write(tmp_path_factory.mktemp("data"), documents, shard_size=shard_size)
    assert len(dataset) == len(documents)
    for found, expected in zip(dataset, documents, strict=True):
        assert_same(found, expected)
    for document in documents:
        assert_same(dataset.find(document.key), document)
    assert dataset.num_tokens == sum(map(len, documents))


@given(documents=token_documents(), written=st.integers(0, 8))
def test_writing_goes_on_after_a_stop_and_stores_each_document_once(
    tmp_path_factory: pytest.TempPathFactory, documents: list[TokenDocument], written: int
) -> None:
    folder = tmp_path_factory.mktemp("data")
    write(folder, documents[:written])
    dataset = write(folder, documents)
    assert list(dataset.keys()) == [document.key for document in documents]


def test_a_killed_writer_leaves_only_whole_shards(tmp_path: Path) -> None:
    documents = [TokenDocument.of(str(index), [index, index + 1, index + 2]) for index in range(7)]
    writer = TokenDatasetWriter(tmp_path, tokenizer_hash="t", vocab_size=16, shard_size=6)
    for document in documents[:5]:
        writer.add(document)
    # No flush: the fifth document was never written.
    assert list(TokenDataset(tmp_path).keys()) == ["0", "1", "2", "3"]
    with TokenDatasetWriter(tmp_path, tokenizer_hash="t", vocab_size=16, shard_size=6) as writer:
        assert len(writer) == 4
        for document in documents:
            if document.key not in writer:
                writer.add(document)
    assert sorted(TokenDataset(tmp_path).keys()) == [document.key for document in documents]


def test_a_failing_shard_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [TokenDocument.of("a", [1, 2])])

    def fail(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, [TokenDocument.of("b", [1, 2])])
    assert list(TokenDataset(tmp_path).keys()) == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "tokens-00000.safetensors"]


def test_ids_take_two_bytes_and_are_mapped_from_the_file(tmp_path: Path) -> None:
    dataset = write(tmp_path, [TokenDocument.of("long", list(range(50_000)))], shard_size=1 << 20)
    size = (tmp_path / "tokens-00000.safetensors").stat().st_size
    assert size < 2 * 50_000 + 1000
    document = dataset[0]
    assert document.ids.dtype == np.uint16
    assert np.shares_memory(document.ids, dataset[0].ids)
    with pytest.raises(ValueError, match="read-only"):
        document.ids[0] = 1


def test_negative_indices_count_from_the_end(tmp_path: Path) -> None:
    dataset = write(tmp_path, [TokenDocument.of(key, [1, 2]) for key in "abc"])
    assert dataset[-1].key == "c"
    with pytest.raises(IndexError, match="has 3 documents"):
        dataset[3]
    with pytest.raises(KeyError, match="no document 'd'"):
        dataset.find("d")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (TokenDocument.of("a", [1]), "already has a document 'a'"),
        (TokenDocument.of("b", [1, 65_536]), "ids from 1 to 65536; expected 0…65535"),
        (TokenDocument.of("b", [-1]), "ids from -1"),
    ],
    ids=["a key twice", "an id too large", "a negative id"],
)
def test_documents_that_cant_be_stored_are_refused(tmp_path: Path, document: TokenDocument, message: str) -> None:
    write(tmp_path, [TokenDocument.of("a", [1, 2])])
    with TokenDatasetWriter(tmp_path, tokenizer_hash="t", vocab_size=2**16) as writer:
        with pytest.raises(DatasetError, match=message):
            writer.add(document)


def test_another_tokenizers_ids_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [])
    with pytest.raises(DatasetError, match="of the tokenizer 't', expected 'other'"):
        TokenDatasetWriter(tmp_path, tokenizer_hash="other", vocab_size=2**16)
    with pytest.raises(DatasetError, match="of the tokenizer 't', expected 'other'"):
        TokenDataset(tmp_path, tokenizer_hash="other")
    with pytest.raises(DatasetError, match="vocabulary of 65536 ids, not 100"):
        TokenDatasetWriter(tmp_path, tokenizer_hash="t", vocab_size=100)


def test_a_vocabulary_of_more_than_two_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="two bytes: vocab_size must be 1…65536; got 65537"):
        TokenDatasetWriter(tmp_path, tokenizer_hash="t", vocab_size=65_537)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, [TokenDocument.of("a", [1, 2, 3])])
    shard = tmp_path / "tokens-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(FileFormatError, match=r"tokens-00000.safetensors is not a shard"):
        TokenDataset(tmp_path)
    tensors = safetensors.torch.load(whole)
    safetensors.torch.save_file({**tensors, "offsets": torch.tensor([0, 2])}, shard)
    with pytest.raises(FileFormatError, match="are inconsistent"):
        TokenDataset(tmp_path)
    shard.rename(tmp_path / "tokens-00001.safetensors")
    with pytest.raises(FileFormatError, match="lacks tokens-00000"):
        TokenDataset(tmp_path)


def test_a_folder_that_isnt_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TokenDataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 1}')
    with pytest.raises(FileFormatError, match="doesn't describe a dataset"):
        TokenDataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 9, "tokenizer_hash": "t", "vocab_size": 5}')
    with pytest.raises(FileFormatError, match="has format 9; this version reads 1"):
        TokenDataset(tmp_path)


def test_an_answer_is_what_follows_the_separator() -> None:
    document = TokenDocument.with_answer("a", [0, 5, 6, 9, 7, 8, 2], separator_id=9)
    assert document.trained is not None
    assert document.trained.tolist() == [False] * 4 + [True] * 3


@pytest.mark.parametrize("ids", [[0, 5], [9, 5, 9]])
def test_an_answer_needs_one_separator(ids: list[int]) -> None:
    with pytest.raises(DatasetError, match="separators"):
        TokenDocument.with_answer("a", ids, separator_id=9)


def test_masks_that_dont_fit_are_refused() -> None:
    with pytest.raises(DatasetError, match="trained must be bool"):
        TokenDocument("a", np.array([1, 2]), np.array([True]))
    with pytest.raises(DatasetError, match="ids must be integers"):
        TokenDocument("a", np.array([0.5]))


@given(num_documents=st.integers(1, 20), batch_size=st.integers(1, 12), seed=st.integers(0, 3))
def test_every_document_comes_once_in_each_pass(num_documents: int, batch_size: int, seed: int) -> None:
    order = BatchOrder(num_documents, batch_size=batch_size, seed=seed)
    stream = [index for step in range(3 * num_documents) for index in order.batch(step)]
    for start in range(0, len(stream) - num_documents + 1, num_documents):
        assert sorted(stream[start : start + num_documents]) == list(range(num_documents))


def test_the_order_differs_from_pass_to_pass_and_by_the_seed() -> None:
    first, second = BatchOrder(50, batch_size=50, seed=0), BatchOrder(50, batch_size=50, seed=1)
    assert first.batch(0) != first.batch(1)
    assert first.batch(0) != second.batch(0)


@given(st.integers(0, 30))
def test_a_step_is_the_same_from_wherever_one_starts(step: int) -> None:
    order = BatchOrder(7, batch_size=3, seed=0)
    for earlier in range(step):
        order.batch(earlier)
    assert order.batch(step) == BatchOrder(7, batch_size=3, seed=0).batch(step)


@given(step=st.integers(0, 9), world_size=st.sampled_from([1, 2, 3, 6]))
def test_the_ranks_of_a_step_deal_out_its_documents(step: int, world_size: int) -> None:
    whole = BatchOrder(10, batch_size=6, seed=0).batch(step)
    shares = [
        BatchOrder(10, batch_size=6, seed=0, rank=rank, world_size=world_size).batch(step) for rank in range(world_size)
    ]
    assert [index for dealt in zip(*shares, strict=True) for index in dealt] == whole


def test_orders_that_cant_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="no documents"):
        BatchOrder(0, batch_size=1, seed=0)
    with pytest.raises(ConfigError, match="multiple of world_size"):
        BatchOrder(4, batch_size=3, seed=0, world_size=2)


def test_reprs_are_one_line_with_the_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with TokenDatasetWriter(folder, tokenizer_hash="x", vocab_size=9) as writer:
        writer.add(TokenDocument.of("a", [1, 2, 3]))
    assert repr(writer) == f"TokenDatasetWriter({str(folder)!r}, <1 documents>, vocab_size=9)"
    assert repr(TokenDataset(folder)) == f"TokenDataset({str(folder)!r}, <1 documents, 3 ids>)"
    assert repr(BatchOrder(5, batch_size=2, seed=0)) == "BatchOrder(5, batch_size=2, seed=0)"
    assert repr(BatchOrder(5, batch_size=2, seed=0, rank=1, world_size=2)).endswith("seed=0, rank=1, world_size=2)")
    assert repr(TrainingLog(tmp_path / "log.jsonl")) == f"TrainingLog({str(tmp_path / 'log.jsonl')!r})"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ids": torch.zeros(4, dtype=torch.bfloat16)}, "ids BF16"),
        ({"ids": torch.zeros(2, 2, dtype=torch.uint16)}, r"ids U16 \[2, 2\]"),
        ({"offsets": torch.zeros(2)}, "offsets F32"),
        ({"trained": torch.ones(1, dtype=torch.int8)}, "trained I8"),
        ({"keys": torch.tensor(list(b"null"), dtype=torch.uint8)}, "keys aren't a list"),
        ({"keys": torch.tensor(list(b"[2]"), dtype=torch.uint8)}, "keys aren't a list"),
        ({"keys": torch.tensor(list(b'["\\ud800"]'), dtype=torch.uint8)}, "surrogate"),
        ({"keys": torch.tensor(list(b"[" * 5000), dtype=torch.uint8)}, "keys"),
        ({"more": torch.zeros(1)}, "a tensor 'more'"),
        ({"ids": torch.tensor([1, 2, 10, 4], dtype=torch.uint16)}, "has the id 10"),
    ],
    ids=ascii,
)
def test_a_shard_of_other_tensors_is_refused(tmp_path: Path, changes: dict[str, torch.Tensor], match: str) -> None:
    with TokenDatasetWriter(tmp_path, tokenizer_hash="a", vocab_size=10) as writer:
        writer.add(TokenDocument.of("a", [1, 2, 3, 4]))
    path = tmp_path / "tokens-00000.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path) | changes, path)
    with pytest.raises(FileFormatError, match=match):
        list(TokenDataset(tmp_path))
