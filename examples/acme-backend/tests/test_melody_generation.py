"""A small model is trained on text and melodies together, and writes melodies that do what the text says."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from acme_backend.melody import TOKENS, Melody
from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Finished,
    SegmentFinished,
    SegmentProgress,
    SegmentStarted,
    TextDelta,
    save_document,
)
from chameleon_core.cli.app import app
from chameleon_core.training import TokenDocument, Trainer, TrainingOptions
from chameleon_text import ChameleonProcessor, Document, Text, document_from_json
from chameleon_text.testing import make_tokenizer

SAMPLED = {"do_sample": True, "temperature": 0.8}


def melody(generator: random.Random, direction: str) -> Melody:
    """Return four to eight notes that rise, or fall, by one or two semitones each."""
    notes = [generator.randint(55, 65)]
    for _ in range(generator.randint(3, 7)):
        notes.append(notes[-1] + generator.randint(1, 2))
    return Melody(tuple(notes if direction == "up" else notes[::-1]))


def train(folder: Path) -> Chameleon:
    """Return a pipeline that was trained on 600 documents: a text, a melody, and a text again."""
    processor = ChameleonProcessor(make_tokenizer(more_specials=TOKENS), image_seq_length=4)
    generator = random.Random(0)
    documents = []
    for number in range(600):
        direction = generator.choice(["up", "down"])
        ids = processor.encode([f"{direction}:", melody(generator, direction), "."])
        documents.append(TokenDocument.of(str(number), [*ids, processor.vocabulary.eos_id]))
    torch.manual_seed(0)
    config = ChameleonConfig(
        vocabulary_map=processor.tokenizer.token_ids,
        vocab_size=len(processor.tokenizer),
        vq_config={"resolution": 4, "channel_multiplier": [1, 1]},
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        initializer_range=0.05,
    )
    model = ChameleonForConditionalGeneration(config)
    rate = {"learning_rate": 3e-3, "warmup_steps": 20, "schedule": "cosine"}
    options = TrainingOptions(steps=300, batch_size=16, dropout=0.0, sequence_length=32, **rate)
    Trainer(model, documents, options, folder).run(draw_curves=False)
    return Chameleon(model.eval(), processor)


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory: pytest.TempPathFactory) -> Chameleon:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(tmp_path_factory.mktemp("run"))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("direction", "sign"), [("up", 1), ("down", -1)])
def test_melodies_go_where_the_text_says(chameleon: Chameleon, direction: str, sign: int) -> None:
    documents = chameleon.generate_batch([f"{direction}:"] * 20, modality="melody", seed=1, **SAMPLED)
    steps = []
    for (written,) in documents:
        assert isinstance(written, Melody)
        steps += [sign * (after - before) for before, after in pairwise(written.notes)]
    assert len(steps) > 40
    # By chance a half would go there, and a 128th would be one of the two steps of the training melodies.
    assert sum(step in (1, 2) for step in steps) > 0.9 * len(steps)


def test_a_melody_begins_and_ends_in_a_document_by_itself(chameleon: Chameleon) -> None:
    (*events, finished) = chameleon.stream("up:", modality="interleaved", max_images=0, max_new_tokens=20)
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    written, text = finished.document
    assert isinstance(written, Melody)
    assert text == Text(".")
    assert events == [
        SegmentStarted(0, "melody"),
        *(SegmentProgress(0, "melody", count) for count in range(2, len(written.notes) + 3)),
        SegmentFinished(0, "melody", written),
        TextDelta(0, "."),
    ]


@pytest.mark.parametrize("room", [2, 3, 4])
def test_a_melody_ends_in_its_room(chameleon: Chameleon, room: int) -> None:
    (written,) = chameleon.generate("up:", modality="melody", max_new_tokens=room)
    assert isinstance(written, Melody)
    assert len(written.notes) <= room - 2


def test_a_melody_that_is_stopped_keeps_its_notes(chameleon: Chameleon) -> None:
    seen: list[object] = []
    for event in chameleon.stream("up:", modality="melody", should_stop=lambda: len(seen) >= 3):
        seen.append(event)
    assert isinstance(finished := seen[-1], Finished)
    assert finished.reason == "cancelled"
    assert isinstance(finished.document[0], Melody)
    assert 1 <= len(finished.document[0].notes) <= 3


def test_it_is_saved_and_shown_as_json(chameleon: Chameleon, tmp_path: Path) -> None:
    document = Document([Text("up:"), Melody((60, 62)), Text(".")])
    save_document(document, tmp_path / "song")
    assert document_from_json((tmp_path / "song" / "document.json").read_bytes()) == document
    shown = (tmp_path / "song" / "document.md").read_text(encoding="utf-8")
    assert shown == 'up:\n\n```json\n{"type": "melody", "notes": "C4 D4"}\n```\n\n.\n'

    chameleon.save_pretrained(tmp_path / "model")
    output = tmp_path / "written"
    command = ["generate", str(tmp_path / "model"), "up:", "--modality", "melody", "--output", str(output)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith('[{"type": "melody", "notes": "')
    (written,) = document_from_json((output / "document.json").read_bytes())
    assert [written] == chameleon.generate("up:", modality="melody")
