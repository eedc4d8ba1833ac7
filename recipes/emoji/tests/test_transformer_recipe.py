"""Tests of the transformer's data and stages: withheld pictures never get into a document, and every stage runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from recipes.emoji.classifier import Judge
from recipes.emoji.classifier import train as train_classifier
from recipes.emoji.compositions import (
    HUES,
    Painter,
    PlanSize,
    colours_for,
    dominant_hue,
    encode,
    leaks,
    learned,
    only_named,
    plan,
    plan_redrawn,
    plan_requests,
)
from recipes.emoji.documents import MIXES, DocumentWriter, EmojiDocuments, Form, kind_of
from recipes.emoji.finetune import finetune
from recipes.emoji.pictures import Picture, PictureSet
from recipes.emoji.prompts import Composition, every_sentence, questions, requests
from recipes.emoji.splits import WITHHELD_SHAPES
from recipes.emoji.train_transformer import (
    SMOKE_ARCHITECTURE,
    Data,
    new_chameleon,
    options_of_run,
    prepare,
    random_image_tokenizer,
    sentences,
    train,
)
from recipes.emoji.vocabulary import make_vocabulary

from chameleon_core import Chameleon
from chameleon_core.evaluation.embedded_requests import COMPOSED, ONE_WORD, STYLES, WHAT, name_in, with_article
from chameleon_core.training import TokenDocument
from chameleon_text import Image, Vocabulary

Bytes = npt.NDArray[np.uint8]

THINGS = ("cat", "dog", "pizza", "rocket", "hot pepper", "grapes", "lemon", "full moon")
SHAPES = ("red heart", "green circle", "blue heart", "purple square")
SMALL = PlanSize(variants=2, grounds=9, recoloured=2, scenes=100, shape_variants=3, views=2)


def disc(colour: tuple[int, int, int], radius: float = 30) -> Bytes:
    rows, columns = np.mgrid[:64, :64]
    inside = (rows - 31.5) ** 2 + (columns - 31.5) ** 2 < radius**2
    return np.dstack([np.broadcast_to(np.asarray(colour, np.uint8), (64, 64, 3)), inside.astype(np.uint8) * 255])


def picture_set() -> PictureSet:
    records = [Picture(style, name, "", 3, True, "train", 0, "") for style in STYLES for name in (*THINGS, *SHAPES)]
    records[0] = Picture("noto", "cat", "", 3, True, "withheld-style", 0, "")
    records += [
        Picture(style, name, "", 8, True, "withheld-shape", 0, "") for style in STYLES for name in WITHHELD_SHAPES
    ]
    records += [Picture("noto", "flag", "", 9, False, "train", 0, "")]
    records += [Picture("noto-v1", name, "", 3, False, "train", 0, "") for name in ("cat", "red heart", "flag")]
    arrays = [disc((200, (40 * number) % 256, (90 * number) % 256)) for number in range(len(records))]
    return PictureSet(records, np.stack(arrays))


def data_folder(folder: Path) -> Path:
    pictures = picture_set()
    folder.mkdir()
    np.save(folder / "pictures.npy", pictures.rgba_BHWC)
    (folder / "manifest.json").write_text(json.dumps({"pictures": [record.to_dict() for record in pictures.records]}))
    return folder


def test_nothing_withheld_is_planned() -> None:
    planned = plan(learned(picture_set()), SMALL)
    assert {shown.arrangement for shown in planned} == {None, "left of", "above"}
    assert {"red", "blue", "black"} <= {shown.ground for shown in planned}
    assert not any(leaks(shown) for shown in planned)
    assert not any(shown.style == "noto" and "cat" in (shown.name, shown.other) for shown in planned)
    assert "flag" not in {shown.name for shown in planned}
    said = {sentence for shown in planned for sentence in every_sentence(shown)}
    assert not any(name in sentence for name in WITHHELD_SHAPES for sentence in said)


def test_a_withheld_drawing_is_refused() -> None:
    withheld = picture_set().where(lambda picture: picture.split == "withheld-shape")
    with pytest.raises(ValueError, match=r"is withheld-shape and must not be learned"):
        plan(withheld, SMALL)


def test_leaks_are_recognized() -> None:
    assert leaks(Composition("noto", "green heart"))
    assert leaks(Composition("noto", "heart", colour="green"))
    assert leaks(Composition("noto", "cat", arrangement="above", other="blue square"))
    assert not leaks(Composition("noto", "red heart", ground=None))


def test_a_plan_depends_on_the_seed_alone_and_its_keys_tell_pictures_apart() -> None:
    known = learned(picture_set())
    planned = plan(known, SMALL)
    assert planned == plan(known, SMALL)
    assert planned != plan(known, SMALL, seed=1)
    assert len({shown.key for shown in planned}) == len(planned)
    painter = Painter(known)
    np.testing.assert_array_equal(painter.paint(planned[5]), Painter(known).paint(planned[5]))


def test_a_recoloured_drawing_has_the_hue_of_its_word() -> None:
    record = Picture("noto", "rocket", "", 5, True, "train", 0, "")
    painter = Painter(PictureSet([record], disc((200, 30, 30))[None]))
    for colour, hue in HUES.items():
        seen_HWC = painter.paint(Composition("noto", "rocket", colour=colour, variant=1))
        inked = (seen_HWC.min(axis=2) < 128).astype(np.uint8) * 255
        found = dominant_hue(np.dstack([seen_HWC, inked]))
        assert found is not None
        assert abs((found - hue + 0.5) % 1 - 0.5) < 0.03


def test_names_with_a_colour_or_a_shape_are_not_recoloured() -> None:
    for name in ("red heart", "heart suit", "green apple"):
        assert colours_for(Picture("noto", name, "", 3, True, "train", 0, ""), disc((200, 30, 30))) == []


def test_phrases_read_as_a_person_would_say_them() -> None:
    assert with_article("apple") == "an apple"
    assert [with_article(noun) for noun in ("unicorn", "ewe", "one-piece swimsuit")] == [
        "a unicorn",
        "a ewe",
        "a one-piece swimsuit",
    ]
    assert with_article("eleven o’clock") == "eleven o’clock"
    assert with_article("grapes") == "grapes"
    assert with_article("octopus") == "an octopus"
    assert Composition("noto", "rocket", ground="blue").phrase == "a rocket on a blue background"
    assert Composition("noto", "cat", arrangement="left of", other="pizza").phrase == "a cat left of a pizza"
    apple = Composition("twemoji", "red apple", 4)
    assert apple.caption == "a twemoji drawing of a red apple"
    assert {"a red apple", apple.caption} <= set(requests(apple))
    assert dict(questions(apple))[WHAT] == "a red apple"
    assert dict(questions(Composition("noto", "cat", 3)))[ONE_WORD] == "cat"
    for answer in ("a red apple", apple.caption, "red apple"):
        assert name_in(answer) == "red apple"


def test_the_vocabulary_is_small_has_every_byte_and_is_deterministic() -> None:
    said = sentences(plan(learned(picture_set()), SMALL))
    tokenizer = make_vocabulary(said, num_codes=1024, text_size=400)
    assert tokenizer.to_json() == make_vocabulary(sorted(said, reverse=True), num_codes=1024, text_size=400).to_json()
    assert len(tokenizer) <= 1024 + 400 + 8
    for text in ("a cat left of a pizza", "Ärger\n<eoss> IMGIMGBZ 猫"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    vocabulary = Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids)
    assert vocabulary.num_codes == 1024
    assert len(tokenizer.encode("a cat")) < 5


def test_documents_depend_on_the_seed_and_the_index_and_learn_answers_only(tmp_path: Path) -> None:
    known = learned(picture_set())
    data = prepare(
        tmp_path,
        picture_set(),
        random_image_tokenizer(),
        PlanSize(variants=1, grounds=1, recoloured=1, scenes=8, shape_variants=1, views=0),
    )
    streams, again = (data.documents("pretraining", length=100, seed=3) for _ in range(2))
    other = data.documents("pretraining", length=100, seed=4)
    assert all(np.array_equal(streams[index].ids, again[index].ids) for index in range(100))
    assert not all(np.array_equal(streams[index].ids, other[index].ids) for index in range(100))
    with pytest.raises(IndexError):
        streams[100]
    vocabulary = Vocabulary.from_token_ids(data.tokenizer.token_ids, special_ids=data.tokenizer.special_ids)
    pictures = [np.count_nonzero(streams[index].ids == vocabulary.begin_image_id) for index in range(100)]
    assert set(pictures) == {1, 2}
    asked = 0
    for index in range(100):
        document = data.documents("instructions", length=100, seed=3)[index]
        if document.trained is None:
            assert document.ids[1] == vocabulary.begin_image_id
            continue
        asked += 1
        (separator,) = np.flatnonzero(document.ids == vocabulary.separator_id)
        assert not document.trained[: separator + 1].any()
        assert document.trained[separator + 1 :].all()
        assert document.ids[-1] == vocabulary.eos_id
    assert 80 < asked < 100
    assert {document.key for document in data.held_out("instructions")} == {
        "caption noto|cat|||||0|0",
        "draw noto|cat|||||0|0",
    }
    assert len(known) == 3 * 12 - 1


def drawn_and_named(data: Data, form: Form, *, length: int = 400) -> tuple[list[Composition], list[Composition]]:
    """Return what documents with one picture draw, and what they name."""
    drawn: list[Composition] = []
    named: list[Composition] = []

    class Noting(DocumentWriter):
        def stream(self, key: str, *parts: str | Composition) -> TokenDocument:
            self._note(parts)
            return super().stream(key, *parts)

        def answered(
            self, key: str, question: Sequence[str | Composition], answer: Sequence[str | Composition]
        ) -> TokenDocument:
            self._note([*question, *answer])
            return super().answered(key, question, answer)

        def _note(self, parts: Sequence[str | Composition]) -> None:
            pictures = [part for part in parts if isinstance(part, Composition)]
            if len(pictures) == 1:
                (named if isinstance(parts[-1], str) else drawn).extend(pictures)

    documents = EmojiDocuments(data.planned, Noting(data.store, data.tokenizer), form=form, length=length)
    for index in range(length):
        assert documents[index].key == f"{form} {index}"
    return drawn, named


@pytest.mark.parametrize("form", ["pretraining", "instructions", "drawing"])
def test_most_things_are_drawn_unmoved_and_named_in_every_place(tmp_path: Path, form: Form) -> None:
    size = PlanSize(variants=8, grounds=0, recoloured=0, scenes=0, shape_variants=8, views=0, redrawn=0)
    data = prepare(tmp_path, picture_set(), random_image_tokenizer(), size, form=form)
    drawn, named = drawn_and_named(data, form, length=1500)
    for kind, unmoved in MIXES[form].unmoved.items():
        # Some of the others are as they are by chance.
        as_they_are = [shown.variant == 0 for shown in drawn if kind_of(shown) == kind]
        assert np.mean(as_they_are) == pytest.approx(unmoved + (1 - unmoved) / 8, abs=0.12)
        variants = [shown.variant for shown in named if kind_of(shown) == kind]
        assert np.mean([variant == 0 for variant in variants]) < 0.3
        assert set(variants) == set(range(8))


def test_second_pictures_are_drawn_unmoved_in_the_last_stage(tmp_path: Path) -> None:
    size = PlanSize(variants=8, grounds=0, recoloured=0, scenes=0, shape_variants=8, views=0, redrawn=0)
    data = prepare(tmp_path, picture_set(), random_image_tokenizer(), size, form="drawing")
    drawn: list[Composition] = []

    class Noting(DocumentWriter):
        def answered(
            self, key: str, question: Sequence[str | Composition], answer: Sequence[str | Composition]
        ) -> TokenDocument:
            if len(question) == 3:
                drawn.extend(part for part in answer if isinstance(part, Composition))
            return super().answered(key, question, answer)

    documents = EmojiDocuments(data.planned, Noting(data.store, data.tokenizer), form="drawing", length=600)
    assert all(len(documents[index].ids) for index in range(600))
    assert len(drawn) > 30
    assert np.mean([shown.variant == 0 for shown in drawn]) > 0.8


def test_requests_compose_a_few_things_unmoved() -> None:
    planned = plan_requests(learned(picture_set()))
    assert {shown.name for shown in planned if shown.colour is None} == COMPOSED & set(THINGS)
    assert {shown.arrangement for shown in planned} == {None, "left of", "above"}
    assert {"red", "blue", "black"} <= {shown.ground for shown in planned}
    assert {shown.colour for shown in planned} == {None, *HUES}
    assert not any(shown.variant or shown.view or leaks(shown) for shown in planned)
    assert len({shown.key for shown in planned}) == len(planned)


def test_imitating_another_artist_changes_the_drawing_and_keeps_the_thing() -> None:
    record = Picture("noto", "rocket", "", 5, True, "train", 0, "")
    pictures = PictureSet([record], disc((200, 30, 30), radius=20)[None])
    painter = Painter(pictures)
    planned = plan_redrawn(pictures, PlanSize(redrawn=20))
    assert len({shown.key for shown in planned}) == len(planned) == 20
    reds = []
    for shown in planned:
        seen_HWC = painter.paint(shown)
        np.testing.assert_array_equal(seen_HWC, painter.paint(shown))
        assert not np.array_equal(seen_HWC, painter.paint(replace(shown, redrawn=False)))
        inked_HW = seen_HWC.min(axis=2) < 160
        assert 200 < np.count_nonzero(inked_HW) < 1900
        red, green, blue = seen_HWC[inked_HW].mean(axis=0).tolist()
        assert red > max(green, blue)
        reds.append(red)
    assert np.std(reds) > 10
    shape = PictureSet([replace(record, name="red heart")], disc((200, 30, 30))[None])
    assert plan_redrawn(shape) == []


def test_a_fourth_artist_is_named_and_never_drawn(tmp_path: Path) -> None:
    named = only_named(picture_set())
    assert [(record.style, record.name) for record in named.records] == [("noto-v1", "cat")]
    size = PlanSize(variants=1, grounds=0, recoloured=0, scenes=0, shape_variants=1, views=1, redrawn=3)
    data = prepare(tmp_path, picture_set(), random_image_tokenizer(), size, form="instructions")
    drawn, asked = drawn_and_named(data, "instructions")
    assert {shown.style for shown in drawn} == set(STYLES)
    assert {shown.style for shown in asked} == {*STYLES, "noto-v1"}
    said = [sentence for pair in questions(Composition("noto-v1", "cat", 3)) for sentence in pair]
    assert "a cat" in said
    assert not any("noto" in sentence or "style" in sentence for sentence in said)


def test_distorted_pictures_are_named_and_never_drawn(tmp_path: Path) -> None:
    size = PlanSize(variants=2, grounds=0, recoloured=0, scenes=0, shape_variants=1, views=4)
    data = prepare(tmp_path, picture_set(), random_image_tokenizer(), size)
    drawn, named = drawn_and_named(data, "pretraining")
    assert {shown.view for shown in drawn} == {0}
    assert {shown.view for shown in named if shown.name == "dog"} == set(range(5))
    things = [shown.view > 0 for shown in named if shown.name in THINGS]
    assert 0.78 < np.mean(things) < 0.92
    assert {shown.view for shown in named if shown.name in SHAPES} == {0}


def test_a_distorted_picture_is_the_same_thing_moved_and_relit() -> None:
    record = Picture("noto", "rocket", "", 5, True, "train", 0, "")
    painter = Painter(PictureSet([record], disc((200, 30, 30), radius=20)[None]))
    as_it_is_HWC = painter.paint(Composition("noto", "rocket"))
    for view in range(1, 20):
        seen_HWC = painter.paint(Composition("noto", "rocket", view=view))
        np.testing.assert_array_equal(seen_HWC, painter.paint(Composition("noto", "rocket", view=view)))
        assert not np.array_equal(seen_HWC, as_it_is_HWC)
        assert (seen_HWC[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
        red, green, blue = (seen_HWC[seen_HWC.min(axis=2) < 160].mean(axis=0)).tolist()
        assert red > 1.5 * max(green, blue)
        assert 300 < np.count_nonzero(seen_HWC.min(axis=2) < 200) < 1700


def test_codes_that_look_alike_are_initialized_alike(tmp_path: Path) -> None:
    data = prepare(
        tmp_path,
        picture_set(),
        random_image_tokenizer(),
        PlanSize(variants=1, grounds=1, recoloured=1, scenes=8, shape_variants=1, views=0),
    )
    model = new_chameleon(data, SMOKE_ARCHITECTURE).model
    codebook_ZD = data.image_tokenizer.model.quantize.lookup(torch.arange(4096)[:, None, None])[:, :, 0, 0]
    for weight_VE in (model.get_input_embeddings().weight, model.lm_head.weight):
        rows_ZE = weight_VE[model.layout.code_to_id_Z]
        assert rows_ZE.std().item() == pytest.approx(model.config.initializer_range, rel=1e-4)
        distances = torch.stack([torch.pdist(codebook_ZD[:200]), torch.pdist(rows_ZE[:200])])
        assert torch.corrcoef(distances)[0, 1] > 0.8


def test_pictures_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = learned(picture_set())
    planned = plan(known, PlanSize(variants=1, grounds=0, recoloured=0, scenes=0, shape_variants=1, views=0))[:6]
    image_tokenizer = random_image_tokenizer(64)
    store = encode(tmp_path, planned[:4], Painter(known), image_tokenizer)
    assert list(store.keys()) == [shown.key for shown in planned[:4]]
    painted = []
    paint = Painter.paint

    def noting(self: Painter, shown: Composition) -> Bytes:
        painted.append(shown)
        return paint(self, shown)

    monkeypatch.setattr(Painter, "paint", noting)
    store = encode(tmp_path, planned, Painter(known), image_tokenizer)
    assert painted == planned[4:]
    expected = image_tokenizer.encode(paint(Painter(known), planned[5]))[0]
    assert torch.equal(torch.tensor(store.find(planned[5].key).ids.astype(np.int64)), expected)


def test_both_stages_run_and_write_a_model_that_draws(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    nowhere = tmp_path / "no tokenizer"
    pretrained, tuned = tmp_path / "pretrained", tmp_path / "tuned"
    with pytest.raises(FileNotFoundError, match=r"python -m recipes\.emoji\.train_transformer"):
        finetune(tuned, pretrained, data, nowhere, steps=2, smoke=True)
    assert train(pretrained, data, nowhere, steps=2, smoke=True)
    assert finetune(tuned, pretrained, data, nowhere, steps=10, smoke=True)
    for run, steps in ((tuned / "naming", 10), (tuned, 2)):
        assert {"log.jsonl", "curves.png", "model"} <= {path.name for path in run.iterdir()}
        assert len((run / "log.jsonl").read_text().splitlines()) == steps
    chameleon = Chameleon.from_pretrained(tuned / "model")
    (picture,) = chameleon.generate("a green heart", modality="image", template="chat")
    assert isinstance(picture, Image)
    assert picture.image.size == (64, 64)


def test_interrupted_fine_tuning_ends_with_the_same_weights(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    pretrained, whole, stopped = (tmp_path / name for name in ("pretrained", "whole", "stopped"))
    assert train(pretrained, data, tmp_path, steps=2, smoke=True)
    assert finetune(whole, pretrained, data, tmp_path, steps=8, smoke=True)
    calls = 1
    while not finetune(stopped, pretrained, data, tmp_path, steps=8, minutes=1e-6, smoke=True):
        calls += 1
        assert (stopped / "log.jsonl").exists() == (stopped / "naming" / "model").exists()
    # The call that ends the eight steps of naming has the first of two of drawing, too.
    assert calls == 9
    runs = (whole / "naming", whole, stopped)
    named, drawn, again = (Chameleon.from_pretrained(run / "model").model.lm_head.weight.detach() for run in runs)
    assert not torch.equal(named, drawn)
    assert torch.allclose(named, drawn, atol=0.02)
    assert torch.equal(drawn, again)


def test_a_run_out_of_time_resumes(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    run = tmp_path / "run"
    assert not train(run, data, tmp_path, steps=2, minutes=1e-6, smoke=True)
    assert train(run, data, tmp_path, smoke=True)
    assert len((run / "log.jsonl").read_text().splitlines()) == 2


def test_the_minutes_decide_how_many_steps_a_run_has(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    run = tmp_path / "run"
    assert not train(run, data, tmp_path, smoke=True, prepare_only=True)
    assert not (run / "run.json").exists()
    train(run, data, tmp_path, minutes=0.01, smoke=True)
    options = options_of_run(run)
    assert options is not None
    assert 1 <= options.steps < 500


def test_the_classifier_learns_names_and_loads_from_its_folder(tmp_path: Path) -> None:
    colours = {"crab": (200, 0, 0), "frog": (0, 200, 0), "whale": (0, 0, 200)}
    records = [Picture("noto", name, "", 5, True, "train", 0, "") for name in colours]
    pictures = PictureSet(records, np.stack([disc(colour) for colour in colours.values()]))
    judge = train_classifier(pictures, steps=60, widths=(8, 8, 8, 8))
    assert judge.name(pictures.on_white()) == list(colours)
    judge.save(tmp_path)
    assert Judge.load(tmp_path).name(pictures.on_white()) == list(colours)
