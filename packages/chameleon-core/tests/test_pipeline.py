"""The pipeline over a tiny model, with stand-ins for the sibling packages."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import (
    ArgumentError,
    Chameleon,
    ChameleonForConditionalGeneration,
    ConfigError,
    ContextLengthError,
    Event,
    Finished,
    GenerationError,
    GenerationOptions,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    MissingPackageError,
    TextDelta,
    VocabularyError,
)
from chameleon_core.generation.options import Modality
from chameleon_core.testing import make_config, make_vocabulary

CODES = (3, 0, 15, 3)


@dataclasses.dataclass(frozen=True)
class Text:
    text: str


@dataclasses.dataclass(frozen=True)
class Image:
    image: Any = None
    codes: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.codes is not None:
            object.__setattr__(self, "codes", tuple(self.codes))


def as_document(value: Any) -> list[Any]:
    parts = list(value) if isinstance(value, list) else [value]
    return [Text(part) if isinstance(part, str) else Image(part) if isinstance(part, Path) else part for part in parts]


class Words:
    """A tokenizer of words that are their own names."""

    def __init__(self, token_ids: dict[str, int]) -> None:
        self.token_ids = token_ids
        self.names = {token_id: name for name, token_id in token_ids.items()}

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f" {self.names[token_id]}" for token_id in ids)

    def stream_decoder(self) -> Any:
        return SimpleNamespace(push=lambda token_id: self.decode([token_id]), flush=lambda: "")


class Processor:
    """A processor of words and pictures; templates put a separator behind the prompt, or don't."""

    def __init__(self, token_ids: dict[str, int], image_tokenizer: Any = None) -> None:
        self.tokenizer = Words(token_ids)
        self.image_tokenizer = image_tokenizer
        self.encoded: list[list[Any]] = []
        self.saved: list[Path] = []

    def encode(self, document: Any, *, template: str) -> list[int]:
        self.encoded.append(list(document))
        token_ids = self.tokenizer.token_ids
        ids = [token_ids["<s>"]]
        for segment in document:
            if isinstance(segment, Text):
                ids += [token_ids[word] for word in segment.text.split()]
            else:
                assert segment.codes is not None
                names = (
                    f"IMGIMG{'ABCDEFGHIJ'[code] if code < 10 else 'B' + 'ABCDEFGHIJ'[code - 10]}Z"
                    for code in segment.codes
                )
                ids += [token_ids["<racm3:break>"], *(token_ids[name] for name in names), token_ids["<eoss>"]]
        return ids + ([token_ids["<reserved08706>"]] if template == "chat" else [])

    def decode_document(self, ids: Sequence[int]) -> Any:
        raise AssertionError("the pipeline reads ids one by one")

    def draw(self, document: Any) -> Any:
        raise AssertionError("the pipeline draws by the image tokenizer")

    def save_pretrained(self, folder: Path) -> None:
        self.saved.append(folder)


class Pictures:
    """An image tokenizer whose pictures are tuples of the codes."""

    def __init__(self, num_codes: int = 16, tokens_per_image: int = 4, *, draws: bool = True) -> None:
        self.num_codes = num_codes
        self.tokens_per_image = tokens_per_image
        self.draws = draws
        self.read: list[list[Any]] = []
        self.moves: list[Any] = []
        self.image_processor = SimpleNamespace(
            save_pretrained=lambda folder: (folder / "preprocessor_config.json").write_text("{}")
        )

    def to(self, device: Any) -> None:
        self.moves.append(device)

    def encode(self, images: Sequence[Any]) -> Tensor:
        self.read.append(list(images))
        return torch.tensor([CODES] * len(images))

    def encode_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        return torch.tensor([CODES] * len(pixels_BCHW))

    def decode(self, codes_BN: Tensor) -> list[Any]:
        if not self.draws:
            raise ValueError("these weights have no decoder")
        return [("drawn", *codes) for codes in codes_BN.tolist()]

    def preview(self, codes_n: Tensor) -> Any:
        return ("preview", *codes_n.tolist())

    def state_dict(self) -> dict[str, Tensor]:
        return {"quantize.embedding.weight": torch.zeros(16, 2)}

    def config_dict(self) -> dict[str, Any]:
        return {"resolution": 4, "channel_multiplier": [1, 1]}


@pytest.fixture(autouse=True)
def chameleon_text(monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(Text=Text, Image=Image, Results=list, as_document=as_document)
    monkeypatch.setitem(sys.modules, "chameleon_text", package)  # type: ignore[arg-type]


def make_model(**changes: Any) -> ChameleonForConditionalGeneration:
    torch.manual_seed(0)
    return ChameleonForConditionalGeneration(make_config(**changes)).eval()


def make_pipeline(**changes: Any) -> Chameleon:
    return Chameleon(make_model(**changes), Processor(make_vocabulary()), Pictures())


def deltas(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


# Documents.


def test_the_deltas_of_a_stream_are_the_text_of_its_document() -> None:
    events = list(make_pipeline().stream("word1 word2", max_new_tokens=6))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    assert finished.document == [Text(deltas(events))]
    assert len(deltas(events).split()) == 6


def test_generating_gives_the_document_that_streaming_ends_with() -> None:
    pipeline = make_pipeline()
    *_, finished = pipeline.stream("word1", modality="interleaved", max_new_tokens=20, do_sample=True, seed=1)
    document = pipeline.generate("word1", modality="interleaved", max_new_tokens=20, do_sample=True, seed=1)
    assert isinstance(finished, Finished)
    assert document == finished.document


def test_a_picture_is_streamed_from_its_beginning_to_its_end() -> None:
    events = list(make_pipeline().stream(["word1"], modality="image", preview_every=2))
    started, *progress, whole, finished = events
    assert started == ImageStarted(0, 4)
    assert [event.codes_done for event in progress if isinstance(event, ImageProgress)] == [1, 2, 3, 4]
    assert [event.preview is not None for event in progress if isinstance(event, ImageProgress)] == [0, 1, 0, 0]
    assert [len(event.codes) for event in progress if isinstance(event, ImageProgress)] == [0, 2, 0, 0]
    assert isinstance(whole, ImageFinished)
    assert whole.image == ("drawn", *whole.codes)
    assert finished == Finished(0, "stop", [Image(whole.image, whole.codes)])  # type: ignore[list-item]


def test_drawing_is_generating_one_picture_for_a_request() -> None:
    pipeline = make_pipeline()
    options = {"do_sample": True, "seed": 4}
    (segment,) = pipeline.generate("word1", modality="image", template="chat", **options)
    assert pipeline.draw("word1", **options) == segment.image
    (other,) = pipeline.generate("word1", modality="image", template="completion", **options)
    assert pipeline.draw("word1", template="completion", **options) == other.image


@pytest.mark.parametrize("image", ["cat.png", Path("cat.png"), Image(codes=CODES)], ids=["str", "path", "segment"])
def test_a_caption_is_the_likeliest_answer_to_a_question_about_a_picture(image: Any) -> None:
    pipeline = make_pipeline()
    pipeline.model.generation_options = GenerationOptions(do_sample=True, max_new_tokens=5)
    (answer,) = pipeline.generate([Image(codes=CODES), "word3"], template="chat", do_sample=False)
    assert [pipeline.caption(image, "word3") for _ in range(2)] == [answer.text.strip()] * 2
    sampled = [pipeline.caption(image, "word3", do_sample=True, seed=seed) for seed in range(2)]
    assert sampled[0] != sampled[1]


def test_each_row_of_a_batch_gets_what_it_gets_alone() -> None:
    pipeline = make_pipeline()
    prompts = ["word1", ["word2 word3", Image(codes=CODES)], "word4 word5 word6"]
    together = pipeline.generate_batch(prompts, max_new_tokens=8)
    assert together == [pipeline.generate(prompt, max_new_tokens=8) for prompt in prompts]


def test_events_have_their_rows_and_each_row_ends_once() -> None:
    events = list(make_pipeline().stream_batch(["word1", "word2"], max_new_tokens=3))
    assert {event.row for event in events} == {0, 1}
    assert [event.row for event in events if isinstance(event, Finished)] == [0, 1]


def test_no_prompts_give_no_documents() -> None:
    assert make_pipeline().generate_batch([]) == []


@pytest.mark.parametrize(
    "misuse",
    [
        lambda pipeline: pipeline.draw("word1", modality="text"),
        lambda pipeline: pipeline.caption("cat.png", modality="image"),
    ],
)
def test_the_short_forms_have_no_modality(misuse: Callable[[Chameleon], object]) -> None:
    with pytest.raises(GenerationError, match=r"has no modality; got modality=.*Use generate\(prompt, modality="):
        misuse(make_pipeline())


def test_a_pipeline_moves_with_its_image_tokenizer_which_keeps_its_dtype() -> None:
    pipeline = make_pipeline()
    assert isinstance(pipeline.image_tokenizer, Pictures)
    assert pipeline.to("cpu", torch.bfloat16) is pipeline
    assert (pipeline.model.dtype, pipeline.image_tokenizer.moves) == (torch.bfloat16, ["cpu"])
    assert pipeline.to(dtype=torch.float32).model.dtype == torch.float32
    assert pipeline.image_tokenizer.moves == ["cpu"]
    assert pipeline.generate("word1", max_new_tokens=1)


@pytest.mark.parametrize("device", ["nodev", "cuda:99", "cuda"])
def test_a_device_that_torch_cant_use_is_an_error_and_nothing_is_moved(device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("torch can use it here")
    pipeline = make_pipeline()
    with pytest.raises(ConfigError, match=f"torch can't use the device '{device}' here"):
        pipeline.to(device, torch.bfloat16)
    assert pipeline.model.dtype == torch.float32


def test_a_repr_has_the_sizes_of_the_parts() -> None:
    lines = repr(make_pipeline()).splitlines()
    parameters = sum(each.numel() for each in make_model().parameters())
    assert lines == [
        "Chameleon(",
        f"    model: {parameters / 1000:.3g} thousand parameters, float32, on cpu",
        "    layers: 2, 32 wide; context: 128",
        "    pictures: 2 × 2 codes of 16",
        "    image tokenizer: Pictures",
        "    processor: Processor, 64 names",
        ")",
    ]
    text_alone = Chameleon(make_model(), Processor(make_vocabulary()))
    assert "image tokenizer: not loaded yet" in repr(text_alone)


# Prompts.


def test_all_new_pictures_of_a_batch_are_read_together() -> None:
    pipeline = make_pipeline()
    first, second, third = Path("a.png"), Path("b.png"), Path("c.png")
    pipeline.generate_batch([["word1", first], [second, Image(codes=CODES), third]], max_new_tokens=1)
    assert isinstance(pipeline.image_tokenizer, Pictures)
    assert pipeline.image_tokenizer.read == [[first, second, third]]


def test_the_template_is_the_processors_to_apply() -> None:
    pipeline = make_pipeline()
    prompt = Processor(make_vocabulary()).encode([Text("word1")], template="chat")
    expected = pipeline.model.generate(torch.tensor([prompt]), max_new_tokens=5)[0, len(prompt) :].tolist()
    (text,) = pipeline.generate("word1", template="chat", max_new_tokens=5)
    assert isinstance(text, Text)
    assert text.text == Words(make_vocabulary()).decode(expected)


def test_options_are_the_models_own_unless_given() -> None:
    pipeline = make_pipeline()
    pipeline.model.generation_options = GenerationOptions(max_new_tokens=2)
    assert len(deltas(list(pipeline.stream("word1"))).split()) == 2
    assert len(deltas(list(pipeline.stream("word1", max_new_tokens=3))).split()) == 3
    assert len(deltas(list(pipeline.stream("word1", options=GenerationOptions(max_new_tokens=4)))).split()) == 4


def test_stop_strings_are_searched_in_the_processors_text() -> None:
    pipeline = make_pipeline()
    (whole,) = pipeline.generate("word1", max_new_tokens=8)
    assert isinstance(whole, Text)
    third = whole.text.split()[2]
    (cut,) = pipeline.generate("word1", max_new_tokens=8, stop_strings=(third,))
    assert isinstance(cut, Text)
    assert cut.text.split()[-1] == third
    assert whole.text.startswith(cut.text)


# Cancellation.


def test_a_stream_that_is_stopped_ends_with_the_partial_document() -> None:
    seen: list[Event] = []
    for event in make_pipeline().stream("word1", modality="image", should_stop=lambda: len(seen) > 2):
        seen.append(event)
    finished = seen[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "cancelled"
    (picture,) = finished.document
    assert isinstance(picture, Image)
    assert 0 < len(picture.codes or ()) < 4
    assert picture.image == ("preview", *(picture.codes or ()))


def test_closing_a_stream_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline()
    passes: list[int] = []
    forward = pipeline.model.model.forward
    monkeypatch.setattr(
        pipeline.model.model, "forward", lambda *args, **kwargs: passes.append(1) or forward(*args, **kwargs)
    )  # type: ignore[func-returns-value]
    stream = pipeline.stream("word1 word2")
    next(stream)
    count = len(passes)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []
    assert len(passes) == count


# Mistakes are errors before any work.


def test_a_prompt_past_the_context_is_refused_before_its_pictures_are_read() -> None:
    pipeline = make_pipeline(max_position_embeddings=16)
    with pytest.raises(ContextLengthError, match="the context holds 16"):
        pipeline.stream([Path("a.png"), Path("b.png"), "word1"], modality="image")
    assert isinstance(pipeline.image_tokenizer, Pictures)
    assert pipeline.image_tokenizer.read == []


def test_a_picture_in_a_prompt_must_be_complete() -> None:
    with pytest.raises(GenerationError, match=r"picture of prompt 1 has 3 codes; .* have 4"):
        make_pipeline().generate_batch(["word1", Image(codes=CODES[:3])])


def test_an_unknown_option_is_an_error_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"no field 'max_tokens'\. Did you mean 'max_new_tokens'\?"):
        make_pipeline().stream("word1", max_tokens=3)


def test_previews_every_fewer_than_no_codes_are_refused() -> None:
    with pytest.raises(GenerationError, match="preview_every"):
        make_pipeline().stream("word1", preview_every=-1)


def test_a_str_in_place_of_a_list_of_prompts_is_refused() -> None:
    with pytest.raises(GenerationError, match="one str"):
        make_pipeline().stream_batch("word1")


def test_an_image_tokenizer_that_can_not_draw_is_an_error_before_any_id() -> None:
    pipeline = Chameleon(make_model(), Processor(make_vocabulary()), Pictures(draws=False))
    with pytest.raises(ValueError, match="no decoder"):
        pipeline.stream("word1", modality="interleaved")
    assert pipeline.generate("word1", max_new_tokens=1)


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocabulary_map"):
        Chameleon(make_model(vocabulary_map=None), Processor(make_vocabulary()))


def test_a_processor_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(VocabularyError, match=r"\d+ of the 64 names .*IMGIMG.*and \d+ more"):
        Chameleon(make_model(), Processor(make_vocabulary(seed=1)))


def test_the_placeholder_may_have_either_of_its_names() -> None:
    token_ids = make_vocabulary()
    token_ids["<reserved08707>"] = token_ids.pop("<image>")
    assert Chameleon(make_model(), Processor(token_ids)).layout.num_codes == 16


def test_a_processor_with_ids_past_the_model_is_refused() -> None:
    with pytest.raises(
        VocabularyError, match=r"ids up to 64, the model's vocabulary ends at 63.*resize_token_embeddings\(65\)"
    ):
        Chameleon(make_model(), Processor(make_vocabulary() | {"word99": 64}))


@pytest.mark.parametrize("pictures", [Pictures(num_codes=15), Pictures(tokens_per_image=9)])
def test_an_image_tokenizer_of_another_model_is_refused(pictures: Pictures) -> None:
    with pytest.raises(ConfigError, match=r"the model has 16 .* and takes 4"):
        Chameleon(make_model(), Processor(make_vocabulary()), pictures)


def test_the_processors_image_tokenizer_serves_where_none_is_given() -> None:
    pictures = Pictures()
    model = make_model()
    assert Chameleon(model, Processor(make_vocabulary(), pictures)).image_tokenizer is pictures
    assert model.image_tokenizer is pictures


def test_text_needs_no_image_tokenizer_and_pictures_need_one() -> None:
    pipeline = Chameleon(make_model(), Processor(make_vocabulary()))
    assert pipeline.generate("word1", max_new_tokens=1)
    with pytest.raises(ConfigError, match="no image tokenizer"):
        pipeline.stream("word1", modality="image")


@pytest.mark.parametrize(("package", "modality"), [("chameleon_text", "text"), ("chameleon_vq", "image")])
def test_a_missing_sibling_is_named_with_its_install_line(
    package: str, modality: Modality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Chameleon(make_model(), Processor(make_vocabulary()))
    pipeline.model.source = tmp_path
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=f"pip install ./packages/{package.replace('_', '-')}"):
        pipeline.stream("word1", modality=modality)


# Files.


def test_saving_writes_the_model_the_processor_and_the_constants_of_the_pixels(tmp_path: Path) -> None:
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path)
    assert isinstance(pipeline.processor, Processor)
    assert [folder.parent for folder in pipeline.processor.saved] == [tmp_path]
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_the_constants_of_an_image_tokenizer_that_was_not_needed_are_passed_on(tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "first")
    (tmp_path / "first" / "preprocessor_config.json").write_text('{"size": 3}')
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "first")
    Chameleon(model, Processor(make_vocabulary())).save_pretrained(tmp_path / "second")
    assert '"size": 3' in (tmp_path / "second" / "preprocessor_config.json").read_text()


def test_an_argument_of_transformers_that_means_nothing_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="low_cpu_mem_usage=False: weights are always mapped"):
        Chameleon.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    with pytest.raises(ConfigError, match="output_loading_info"):
        Chameleon.from_pretrained(tmp_path, output_loading_info=True)


def test_an_unknown_argument_is_an_error_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no argument 'attn_implementaton'\. Did you mean 'attn_implementation'"):
        Chameleon.from_pretrained(tmp_path, attn_implementaton="eager")
    with pytest.raises(ArgumentError, match=r"no argument 'xyz'\. The arguments are dtype, device, "):
        Chameleon.from_pretrained(tmp_path, xyz=1)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [({}, torch.float32), ({"dtype": None}, torch.bfloat16), ({"dtype": torch.float16}, torch.float16)],
    ids=["as the config says", "as stored", "as asked"],
)
def test_weights_get_the_dtype_of_the_config_unless_another_is_requested(
    dtype: dict[str, Any], expected: torch.dtype, tmp_path: Path
) -> None:
    """So that a model can be stored in fewer bytes than it computes in."""
    make_model().bfloat16().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "float32", "torch_dtype": "float32"}))
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path, **dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
