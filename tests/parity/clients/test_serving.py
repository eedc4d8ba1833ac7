"""Programs that read and write: pipelines, streamers, datasets, loaders with workers, and the upload to a hub."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from tests.parity.clients.collate import Collate
from tests.parity.clients.conftest import SIDES, Side

GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture
def picture() -> PIL.Image.Image:
    random = np.random.default_rng(0)
    return PIL.Image.fromarray(random.integers(0, 256, (12, 9, 3), dtype=np.uint8))


def test_a_pipeline_of_pictures_and_text(loaded: dict[str, Side], picture: PIL.Image.Image) -> None:
    texts = {}
    layout = loaded["ours"].model.layout
    # Ours writes no special ids as text.
    specials = [token_id for token_id in range(len(layout.text_allowed_V)) if not layout.text_allowed_V[token_id]]
    options = {**GREEDY, "suppress_tokens": [each for each in specials if each != layout.eos_id]}
    for name in SIDES:
        model, processor = loaded[name]
        pipe = transformers.pipeline("image-text-to-text", model=model, processor=processor)
        texts[name] = pipe(images=[picture], text="<image>What is this?", generate_kwargs=options)
    assert texts["ours"] == texts["theirs"]


@pytest.mark.parametrize("text", ["The quick", "A b c"])
def test_streamers_print_what_is_written(
    loaded: dict[str, Side], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for name in SIDES:
        model, processor = loaded[name]
        inputs = processor(text=text, return_tensors="pt")
        model.generate(**inputs, streamer=transformers.TextStreamer(processor.tokenizer), **GREEDY)
        said[name] = capsys.readouterr().out
    assert said["ours"] == said["theirs"]
    assert said["ours"].strip()


def test_streamers_of_a_thread(loaded: dict[str, Side]) -> None:
    said = {}
    for name in SIDES:
        model, processor = loaded[name]
        inputs = processor(text="The quick", return_tensors="pt")
        streamer = transformers.TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
        thread = threading.Thread(target=model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer})
        thread.start()
        said[name] = "".join(streamer)
        thread.join()
    assert said["ours"] == said["theirs"]


def test_a_dataset_maps_a_processor(loaded: dict[str, Side], picture: PIL.Image.Image) -> None:
    found = {}
    rows = datasets.Dataset.from_dict({"text": ["The quick", "Once upon a time"]})
    for name in SIDES:
        processor = loaded[name].processor

        def encoded(batch: dict[str, Any], processor: Any = processor) -> Any:
            return processor(text=batch["text"], padding=True)

        mapped = rows.map(encoded, batched=True, remove_columns=["text"])
        found[name] = {column: mapped[column][:] for column in ("input_ids", "attention_mask")}
    assert found["ours"] == found["theirs"]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_loader_have_the_processor(loaded: dict[str, Side], context: str) -> None:
    found = {}
    for name in SIDES:
        loader = torch.utils.data.DataLoader(
            ["The quick", "Once upon a time", "A", "b c"],
            batch_size=2,
            num_workers=1,
            collate_fn=Collate(loaded[name].processor),
            multiprocessing_context=context,
        )
        found[name] = [batch["input_ids"].tolist() for batch in loader]
    assert found["ours"] == found["theirs"]


def test_upload_to_a_hub(loaded: dict[str, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, set[str]] = {}

    class Hub:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            assert options.get("private") is True
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id: str, folder_path: Any, **options: Any) -> None:
            uploaded[repo_id] = {path.name for path in Path(folder_path).iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    model, processor = loaded["ours"]
    model.push_to_hub("someone/model", private=True)
    processor.push_to_hub("someone/processor", private=True)
    assert {"config.json", "generation_config.json", "model.safetensors"} <= uploaded["someone/model"]
    assert {"tokenizer.json", "processor_config.json"} <= uploaded["someone/processor"]
