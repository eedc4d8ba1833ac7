"""Labels: what a model is trained to write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from chameleon_text import ChameleonProcessor, ConfigError, Image, Text, TextTokenizer, Turn
from chameleon_text.batch import IGNORE_INDEX
from chameleon_text.testing import FakeImageTokenizer, documents, make_tokenizer

CONVERSATION = [
    Turn("user", (Text("the"),)),
    Turn("assistant", (Text("a"), Image(codes=(1, 2, 3, 4)))),
    Turn("user", (Text("a"),)),
    Turn("assistant", (Text("the"),)),
]


def trained(processor: ChameleonProcessor, labels: Any) -> str:
    return processor.decode([label for label in labels if label != IGNORE_INDEX])


def test_answers_and_their_ends_are_trained_on(processor: ChameleonProcessor) -> None:
    example = processor.encode_for_training(CONVERSATION)
    assert trained(processor, example.labels) == ("a<racm3:break>IMGIMGBZIMGIMGCZIMGIMGDZIMGIMGEZ<eoss></s>the</s>")
    assert example.input_ids == processor.encode_messages(CONVERSATION)


def test_everything_is_trained_on_when_asked(processor: ChameleonProcessor) -> None:
    example = processor.encode_for_training(CONVERSATION, labels="all")
    assert example.labels == example.input_ids


@given(documents(), documents())
def test_a_label_is_the_id_or_ignored_and_a_prompt_is_the_beginning(question: Any, answer: Any) -> None:
    processor = ChameleonProcessor(make_tokenizer(), image_seq_length=4)
    turns = [Turn("user", tuple(question)), Turn("assistant", tuple(answer))]
    for template in ("chat", "completion"):
        example = processor.encode_for_training(turns, template=template)
        prompt = processor.encode(question, template=template)
        assert example.input_ids[: len(prompt)] == prompt
        assert example.labels == [IGNORE_INDEX] * len(prompt) + example.input_ids[len(prompt) :]


def test_prompts_with_answers_have_labels(processor: ChameleonProcessor) -> None:
    batch = processor(text=["the", "a"], answers=["a", "the the"], labels="answer", padding=True, return_tensors="np")
    assert [trained(processor, row) for row in batch.labels] == ["a</s>", "the the</s>"]
    assert processor.decode(batch.input_ids[1]) == "<s>a<reserved08706>the the</s>"
    assert batch.labels.shape == batch.input_ids.shape
    everything = processor(text=["the", "a"], answers=["a", "the the"], labels="all", padding=True, return_tensors="np")
    padding = everything.attention_mask == 0
    assert (everything.labels == np.where(padding, IGNORE_INDEX, everything.input_ids)).all()


def test_placeholders_are_not_trained_on(tokenizer: TextTokenizer) -> None:
    processor = ChameleonProcessor(tokenizer, image_seq_length=2)
    example = processor.encode_for_training([Turn("user", (Image(),))], labels="all")
    assert trained(processor, example.labels) == "<s><racm3:break><eoss><reserved08706>"


def test_examples_are_padded_with_their_labels(processor: ChameleonProcessor) -> None:
    examples = [processor.encode_for_training(CONVERSATION[:2]), processor.encode_for_training(CONVERSATION)]
    batch = processor.pad(examples, return_tensors="np")
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert (batch.labels[batch.attention_mask == 0] == IGNORE_INDEX).all()
    assert batch.labels[0][batch.attention_mask[0] == 1].tolist() == examples[0].labels


def test_rows_of_ids_are_padded(processor: ChameleonProcessor) -> None:
    batch = processor.pad([[5], np.array([5, 6, 7])], padding_side="right")  # type: ignore[list-item]
    pad = processor.vocabulary.pad_id
    assert dict(batch) == {"input_ids": [[5, pad, pad], [5, 6, 7]], "attention_mask": [[1, 0, 0], [1, 1, 1]]}


def test_examples_and_ids_do_not_mix(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match="either all training examples or all ids"):
        processor.pad([processor.encode_for_training(CONVERSATION), [1]])  # type: ignore[list-item]


def test_unknown_labels_are_an_error(processor: ChameleonProcessor) -> None:
    with pytest.raises(ConfigError, match="labels is 'prompt', expected 'answer' or 'all'"):
        processor.encode_for_training(CONVERSATION, labels="prompt")  # type: ignore[arg-type]


def test_messages_take_pictures(processor: ChameleonProcessor) -> None:
    picture = FakeImageTokenizer().decode([[9, 9, 9, 9]])[0]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    ids = processor.encode_messages(messages, images=[picture])
    assert processor.decode_turns(ids) == [Turn("user", (Image(codes=(9, 9, 9, 9)), Text("a")))]
