"""Names of ``transformers`` are there, or say what to use; settings of a folder's processor are read and written."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chameleon_text import (
    ChameleonProcessor,
    ConfigError,
    MissingFileError,
    ProcessorBatch,
    ReadOnlyError,
    TextTokenizer,
)
from chameleon_text.compat.missing_names import OF_PROCESSORS, OF_TOKENIZERS
from chameleon_text.testing import make_tokenizer


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return make_tokenizer()


@pytest.fixture
def processor() -> ChameleonProcessor:
    return ChameleonProcessor(make_tokenizer(), image_seq_length=4)


@pytest.mark.parametrize("name", OF_TOKENIZERS)
def test_a_name_that_a_tokenizer_lacks_says_what_to_use(name: str, tokenizer: TextTokenizer) -> None:
    assert not hasattr(type(tokenizer), name)
    with pytest.raises(AttributeError, match=f"has no '{name}': .*[^.]\\.$"):
        getattr(tokenizer, name)
    with pytest.raises(ReadOnlyError, match=f"has no '{name}'"):
        setattr(tokenizer, name, True)


@pytest.mark.parametrize("name", OF_PROCESSORS)
def test_a_name_that_a_processor_lacks_says_what_to_use(name: str, processor: ChameleonProcessor) -> None:
    assert not hasattr(type(processor), name)
    with pytest.raises(AttributeError, match=f"has no '{name}': .*[^.]\\.$"):
        getattr(processor, name)
    with pytest.raises(ReadOnlyError, match=f"has no '{name}'"):
        setattr(processor, name, True)


def test_other_names_are_missing_as_on_any_object(tokenizer: TextTokenizer, processor: ChameleonProcessor) -> None:
    for thing in (tokenizer, processor):
        with pytest.raises(AttributeError, match="has no attribute 'banana'"):
            thing.banana  # noqa: B018
        assert getattr(thing, "banana", 3) == 3
    assert copy.deepcopy(tokenizer)("the").input_ids == tokenizer("the").input_ids
    assert pickle.loads(pickle.dumps(processor)).image_seq_length == 4


def test_a_tokenizer_says_what_it_is_set_to(tokenizer: TextTokenizer) -> None:
    tokenizer.padding_side, tokenizer.model_max_length = "right", 77
    kwargs: Any = tokenizer.init_kwargs
    assert (kwargs["padding_side"], kwargs["model_max_length"], kwargs["bos_token"]) == ("right", 77, "<s>")
    with pytest.raises(TypeError):
        kwargs["padding_side"] = "left"  # it would be ignored
    with pytest.raises(ReadOnlyError):
        tokenizer.init_kwargs = {}  # type: ignore[misc,assignment]
    assert tokenizer.decoder.decode(["the", "Ġred"]) == "the red"


def test_a_processor_is_made_of_what_its_file_says(processor: ChameleonProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    data, left = ChameleonProcessor.get_processor_dict(tmp_path, revision=None, banana=1)
    assert data == json.loads((tmp_path / "processor_config.json").read_text())
    assert left == {"banana": 1}
    made = ChameleonProcessor.from_args_and_dict([None, processor.tokenizer], data)
    assert (made.image_seq_length, made.image_token) == (4, "<image>")
    assert ChameleonProcessor.from_args_and_dict([processor.tokenizer], data, image_seq_length=9).image_seq_length == 9
    with pytest.raises(ConfigError, match="given twice"):
        ChameleonProcessor.from_args_and_dict([None, processor.tokenizer, 3], data)
    with pytest.raises(MissingFileError):
        ChameleonProcessor.get_processor_dict(tmp_path / "nothing")
    assert list(processor.unused_input_names) == []


def test_a_batch_becomes_tensors_afterwards() -> None:
    batch = ProcessorBatch({"input_ids": [[1, 2], [3, 4]], "texts": ["a", "b"], "more": None})
    assert batch.convert_to_tensors(None) is batch
    assert batch["input_ids"] == [[1, 2], [3, 4]]
    assert batch.convert_to_tensors("np") is batch
    assert np.array_equal(batch["input_ids"], [[1, 2], [3, 4]])
    assert (batch["texts"], batch["more"]) == (["a", "b"], None)
    with pytest.raises(ConfigError, match="the rows of input_ids differ in shape"):
        ProcessorBatch({"input_ids": [[1], [2, 3]]}).convert_to_tensors("np")
    with pytest.raises(ConfigError, match="expected 'pt', 'np' or None"):
        batch.convert_to_tensors("jax")


# The files of other tokenizers.


def test_files_of_a_bpe_beside_the_tokenizer_are_not_read(processor: ChameleonProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("a b")
    assert ChameleonProcessor.from_pretrained(tmp_path)("the").input_ids == processor("the").input_ids


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model"])
def test_a_folder_with_files_of_another_tokenizer_says_how_to_convert_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    for kind in (ChameleonProcessor, TextTokenizer):
        with pytest.raises(MissingFileError, match=rf"has {name} and no tokenizer\.json.*AutoTokenizer"):
            kind.from_pretrained(tmp_path)
