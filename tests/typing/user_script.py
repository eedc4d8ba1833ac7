"""What a user types: every line must pass ``mypy --strict`` and ``pyright``, and be inferred as it says.

It is checked and not run. ``# expect-error`` marks a mistake that both must find.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import PIL.Image
import torch
from torch import Tensor

from chameleon_core import (
    CausalOutput,
    Chameleon,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Event,
    Finished,
    GenerateOutput,
    GenerationOptions,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    Modality,
    Prompt,
    QuantizationReport,
    Reason,
    Step,
    TextDelta,
    quantization_report,
    save_document,
)
from chameleon_text import Document, Image, Results, Text


def load(folder: Path) -> Chameleon:
    """Load a pipeline and move it."""
    chameleon = Chameleon.from_pretrained(folder, dtype=torch.bfloat16, quantization="int4")
    assert_type(chameleon, Chameleon)
    assert_type(Chameleon.from_pretrained("emoji", device="cpu", attn_implementation="eager"), Chameleon)
    assert_type(chameleon.to("cuda", dtype=torch.float16), Chameleon)
    assert_type(chameleon.model, ChameleonForConditionalGeneration)
    chameleon.processor(text="What is this?<image>", images=[PIL.Image.new("RGB", (8, 8))])
    return chameleon


def generate(chameleon: Chameleon, photo: PIL.Image.Image) -> Document:
    """Continue prompts of every kind."""
    assert_type(chameleon.generate("A cat"), Document)
    assert_type(chameleon.draw("a red apple", seed=0, guidance_text=3.0), PIL.Image.Image)
    assert_type(chameleon.draw(["like this: ", photo], do_sample=True), PIL.Image.Image)
    assert_type(chameleon.caption("cat.png", "which colour is it?", max_new_tokens=20), str)
    assert_type(chameleon.caption(photo), str)
    assert_type(chameleon.caption(Image(codes=(1, 2))), str)

    modality: Modality = "interleaved"
    prompts: list[Prompt] = ["A ", photo, Path("cat.png"), Text("B"), ["C", photo, Image(codes=(1, 2))]]
    assert_type(chameleon.generate_batch(prompts, modality=modality, top_k=5), Results[Document])
    assert_type(chameleon.generate_batch(["A ", "B "], modality="image"), Results[Document])
    document = chameleon.generate(
        ["A ", photo],
        modality="interleaved",
        options=GenerationOptions.published(seed=3),
        template="chat",
        should_stop=lambda: False,
        max_new_tokens=None,
        max_images=2,
        temperature=0.7,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.2,
        image_temperature=1.0,
        stop_ids=(1, 2),
        stop_strings=("end",),
    )
    chameleon.generate("A", max_new_token=5)  # expect-error
    chameleon.generate("A", max_new_tokens="5")  # expect-error
    chameleon.generate("A", modality=3)  # expect-error
    chameleon.draw("A", modality="text")  # expect-error
    chameleon.generate(5)  # expect-error
    save_document(document, "story")
    return document


def stream(chameleon: Chameleon) -> str:
    """Follow a document while it is written."""
    events = chameleon.stream("A story: ", modality="interleaved", preview_every=16, seed=0)
    for event in events:
        assert_type(event, Event)
        match event:
            case TextDelta(text=text):
                assert_type(text, str)
            case ImageStarted(num_codes=num_codes):
                assert_type(num_codes, int)
            case ImageProgress(codes_done=done, preview=preview):
                assert_type(done, int)
                assert_type(preview, PIL.Image.Image | None)
            case ImageFinished(image=image, codes=codes):
                assert_type(image, PIL.Image.Image)
                assert_type(codes, tuple[int, ...])
            case Finished(reason=reason, document=document):
                assert_type(reason, Reason)
                assert_type(document, Document)
                return reason
    events.close()
    for event in chameleon.stream_batch(["A ", "B "]):
        assert_type(event.row, int)
    return ""


def options() -> GenerationOptions:
    """Make and change options."""
    assert_type(GenerationOptions(do_sample=True, temperature=0.7), GenerationOptions)
    assert_type(GenerationOptions.published(top_k=50, modality="image"), GenerationOptions)
    GenerationOptions(temprature=0.7)  # expect-error
    GenerationOptions().replace(temprature=0.7)  # expect-error
    return GenerationOptions().replace(seed=1)


def build() -> ChameleonForConditionalGeneration:
    """Make a model from a configuration."""
    config = ChameleonConfig(hidden_size=64, num_attention_heads=4, vocabulary_map={"<s>": 0})
    assert_type(config, ChameleonConfig)
    assert_type(config.hidden_size, int)
    assert_type(config.replace(hidden_size=128), ChameleonConfig)
    assert_type(ChameleonConfig.from_pretrained("folder"), ChameleonConfig)
    ChameleonConfig(hidden_siz=64)  # expect-error
    return ChameleonForConditionalGeneration(config, attn_implementation="sdpa").eval()


def use(model: ChameleonForConditionalGeneration, input_ids: Tensor) -> QuantizationReport:
    """Call a model, and let it write ids."""
    output = model(input_ids, labels=input_ids)
    assert_type(output, CausalOutput)
    assert_type(output.logits, Tensor)
    assert_type(output.loss, Tensor | None)
    assert_type(model.generate(input_ids, max_new_tokens=5, modality="image"), Tensor)
    for step in model.stream_ids(input_ids, options=GenerationOptions(), seed=1):
        assert_type(step, Step)
    model.generate(input_ids, max_new_token=5)  # expect-error
    assert_type(model.generate(inputs=input_ids, max_length=9, eos_token_id=[2, 7], num_return_sequences=2), Tensor)
    assert_type(model.generate(input_ids, max_new_tokens=5, return_dict_in_generate=True), GenerateOutput)
    model.generate(input_ids, stopping_criteria=[lambda ids, scores: True], logits_processor=[])
    model.generate(input_ids, max_length="9")  # expect-error
    loaded = ChameleonForConditionalGeneration.from_pretrained("folder", dtype="auto")
    assert_type(loaded, ChameleonForConditionalGeneration)
    return quantization_report(loaded, model, input_ids)
