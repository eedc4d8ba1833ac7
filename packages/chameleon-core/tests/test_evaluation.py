"""The measures of an evaluation by hand, backends and quantizers beside float32 eager, and the report.

Shapes: B pictures, F features, T positions of a row.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from chameleon_core import ChameleonCoreError, ConfigError
from chameleon_core.evaluation import (
    CaptionFigures,
    CardFigure,
    DrawingFigures,
    Evaluation,
    EvaluationOptions,
    PictureFigures,
    TextFigures,
    VariantFigures,
    write_report,
)
from chameleon_core.evaluation.cider import cider_d, words
from chameleon_core.evaluation.picture_quality import frechet_distance
from chameleon_core.evaluation.report import page_of
from chameleon_core.evaluation.results import FORM
from chameleon_core.evaluation.tables import tables
from chameleon_core.evaluation.variants import ATTENTION, QUANTIZER, compare_variants, weight_bytes
from chameleon_core.testing import make_config, make_model


@pytest.mark.parametrize(
    ("caption", "reference", "expected"),
    [
        # All n-grams are equal: a cosine of 1 for each length that there is.
        ("four words and more", "four words and more", 10.0),
        ("two words", "two words", 5.0),
        # Of single words one in two: 1/2; of pairs none. A quarter of it, times 10.
        ("red apple", "red pear", 1.25),
        # Clipped: a word said four times counts once, and its length costs e^(-3²/72).
        ("red red red red", "red", 10 / 4 / 4 * math.exp(-9 / 72)),
        ("nothing of it", "quite another", 0.0),
        ("", "red", 0.0),
    ],
)
def test_cider_d_of_one_reference_by_hand(caption: str, reference: str, expected: float) -> None:
    (found, _) = cider_d([caption, "blue"], [[reference], ["blue sky"]])
    assert found == pytest.approx(expected)


def test_cider_d_is_the_mean_over_references_and_words_of_all_pictures_weigh_nothing() -> None:
    (found, _) = cider_d(["red apple", "x"], [["red apple", "green pear"], ["blue sky"]])
    assert found == pytest.approx(5.0 / 2)
    # "a" is in both pictures' references: its weight is log(2/2).
    assert cider_d(["a", "a"], [["a"], ["a"]]) == [0.0, 0.0]


def test_words_of_a_caption() -> None:
    assert words("A dog’s tail, red-brown: it's 2 m!") == ["a", "dog’s", "tail", "red", "brown", "it's", "2", "m"]


def test_captions_and_references_belong_together() -> None:
    with pytest.raises(ConfigError, match="got 1 captions and 2 lists"):
        cider_d(["a"], [["a"], ["b"]])
    with pytest.raises(ConfigError, match="at least one"):
        cider_d(["a"], [[]])


def test_the_frechet_distance_by_hand() -> None:
    # Means 1 and 2, variances 2 and 8: (2 − 1)² + 2 + 8 − 2·√16.
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [4.0]])) == pytest.approx(3.0)
    features_BF = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features_BF, features_BF) == pytest.approx(0.0, abs=1e-9)
    # Moved by (3, 4, 0, 0, 0): the square of the distance of the means.
    assert frechet_distance(features_BF, features_BF + torch.tensor([3.0, 4, 0, 0, 0])) == pytest.approx(25.0, rel=1e-5)
    with pytest.raises(ConfigError, match="at least two pictures"):
        frechet_distance(features_BF[:1], features_BF[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_model(make_config(hidden_size=64, intermediate_size=128, max_position_embeddings=128)).save_pretrained(path)
    return path


ROWS = [list(range(40, 60)), list(range(60, 40, -1))]


@pytest.fixture(scope="module")
def compared(folder: Path) -> dict[str, VariantFigures]:
    found = compare_variants(folder, ROWS, names=["eager", "sdpa", "int8", "int4"])
    return {each.name: each for each in found}


def test_eager_has_no_divergence_from_itself(compared: dict[str, VariantFigures]) -> None:
    eager = compared["eager"]
    assert (eager.kind, eager.reason, eager.dtype, eager.positions) == (ATTENTION, None, "float32", 40)
    assert (eager.top1_agreement, eager.mean_divergence, eager.largest_divergence) == (1.0, 0.0, 0.0)


def test_another_backend_differs_by_rounding_alone(compared: dict[str, VariantFigures]) -> None:
    sdpa = compared["sdpa"]
    assert sdpa.top1_agreement == 1.0
    assert sdpa.largest_divergence is not None
    assert sdpa.largest_divergence < 1e-6


def test_a_quantizer_changes_predictions_and_takes_fewer_bytes(compared: dict[str, VariantFigures]) -> None:
    int8, int4, eager = compared["int8"], compared["int4"], compared["eager"]
    assert (int8.kind, int8.reason, int4.reason) == (QUANTIZER, None, None)
    assert int8.mean_divergence is not None
    assert int4.mean_divergence is not None
    assert int4.largest_divergence is not None
    assert 0 < int8.mean_divergence < int4.mean_divergence < int4.largest_divergence
    assert int4.top1_agreement is not None
    assert int4.top1_agreement < 1
    assert int8.weight_bytes is not None
    assert int4.weight_bytes is not None
    assert eager.weight_bytes is not None
    assert int4.weight_bytes < int8.weight_bytes < eager.weight_bytes


def test_speeds_are_measured(compared: dict[str, VariantFigures]) -> None:
    for each in compared.values():
        if each.reason is None:
            assert each.prompt_ids_per_second is not None
            assert each.prompt_ids_per_second > 0
            assert each.new_ids_per_second is not None
            assert each.new_ids_per_second > 0


def test_what_cant_run_here_is_listed_with_the_reason(folder: Path) -> None:
    def load(folder: Path, **options: Any) -> Any:
        if options.get("quantization") == "int8":
            raise RuntimeError("the kernel\nisn't there")
        return make_model(make_config(max_position_embeddings=128))

    found = compare_variants(folder, ROWS, names=["eager", "int8"], load=load)
    assert [each.name for each in found] == ["eager", "int8"]
    assert found[0].reason is None
    assert found[1].reason == "it fails: RuntimeError: the kernel isn't there"
    assert found[1].top1_agreement is None
    # Built-in ones that need a GPU, or a package that isn't installed, have their own reasons.
    for each in compare_variants(folder, [[40]], names=["flash_attention_2"]):
        assert each.reason or each.positions == 1


def test_a_speed_that_the_context_has_no_room_for_is_left_out(tmp_path: Path) -> None:
    make_model(make_config(max_position_embeddings=16)).save_pretrained(tmp_path)
    (eager,) = compare_variants(tmp_path, [[40, 41]], names=["eager"])
    assert eager.new_ids_per_second is None
    assert eager.prompt_ids_per_second is not None


def test_what_there_is_nothing_to_compare_on_is_refused(folder: Path) -> None:
    for rows in ([], [[]]):
        with pytest.raises(ConfigError, match="no ids to compare"):
            compare_variants(folder, rows)
    with pytest.raises(ConfigError, match=r"'flsh'.*Installed: .*eager.*int8"):
        compare_variants(folder, ROWS, names=["flsh"])


def test_the_bytes_of_weights_by_hand(folder: Path) -> None:
    model = make_model(make_config())
    assert weight_bytes(model) == 4 * sum(each.numel() for each in model.parameters())


def test_a_figure_equals_the_card_to_the_tenth_that_it_states() -> None:
    assert CardFigure("a", 22 / 41, 41, 22 / 41).equals
    assert CardFigure("a", 0.8344, 200, 0.8351).equals is False
    assert CardFigure("a", 0.8351, 200, 0.8353).equals
    assert CardFigure("a", 0.5, 200, None, "why").equals is None


def evaluation(**changes: Any) -> Evaluation:
    full: dict[str, Any] = {
        "model": "a <model>",
        "machine": {"torch": "2.13", "threads": "1"},
        "seconds": 12.34,
        "pictures": (
            PictureFigures("cats", 2, 25.0, 20.0, 0.9, 0.5, 100.0, 10.0, 20.0, 0.12, 3.5, (20.0, 30.0)),
            PictureFigures("dogs & co", 1, 100.0, 100.0, 1.0, 0.1, 1.0, 10.0, 20.0, psnr_of_each=(100.0,)),
        ),
        "text": (TextFigures("book.txt", 1000, 4000, 12.5, 1.25),),
        "captions": (CaptionFigures("cats", 2, 0.5, 3.25, (("a cat", "a <dog>"), ("b", "b"))),),
        "drawings": (DrawingFigures("cats", 2, 15.0, 0.7, 0.5),),
        "variants": (
            VariantFigures(
                ATTENTION, "eager", "chameleon-backends 1", None, {}, "float32", 40, 1.0, 0.0, 0.0, 17_000, 900.0, 80.0
            ),
            VariantFigures(QUANTIZER, "bnb", "chameleon-backends 1", reason="it needs a GPU"),
            VariantFigures(
                QUANTIZER, "int4", "acme 1", None, {"group_size": 64}, "float32", 40, 0.9, 0.01, 0.1, 9_000, 800.0
            ),
        ),
        "card": (
            CardFigure("names", 0.5, 40, 0.5),
            CardFigure("scenes", 0.1, 40, None, "no classifier"),
            CardFigure("grounds", 0.5, 40, 0.525),
        ),
    }
    return Evaluation(**{**full, **changes})


def test_the_json_has_a_list_for_each_part(tmp_path: Path) -> None:
    page, data = write_report(evaluation(), tmp_path / "out")
    assert (page.name, data.name) == ("evaluation.html", "evaluation.json")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.html", "evaluation.json"]
    found = json.loads(data.read_text(encoding="utf-8"))
    assert list(found) == [
        *("form", "model", "machine", "seconds", "pictures", "text", "captions", "drawings", "variants", "card"),
    ]
    assert (found["form"], found["model"], found["seconds"]) == (FORM, "a <model>", 12.3)
    assert found["pictures"][0]["psnr_of_each"] == [20.0, 30.0]
    assert found["variants"][1]["reason"] == "it needs a GPU"
    assert [each["equals"] for each in found["card"]] == [True, None, False]


def test_numbers_that_json_lacks_are_none(tmp_path: Path) -> None:
    strange = TextFigures("book.txt", 1, 4, math.inf, math.nan)
    _, data = write_report(evaluation(text=(strange,)), tmp_path)
    (text,) = json.loads(data.read_text(encoding="utf-8"))["text"]
    assert (text["ids"], text["perplexity"], text["bits_per_byte"]) == (1, None, None)


def test_a_part_that_wasnt_measured_has_no_table() -> None:
    assert [table.title for table in tables(evaluation())] == [
        "Image tokenizer",
        "Text",
        "Captions",
        "Drawings",
        "Attention backends and weight quantizers",
        "The model card's figures, measured again",
    ]
    assert tables(evaluation(pictures=(), text=(), captions=(), drawings=(), variants=(), card=())) == []
    for table in tables(evaluation()):
        assert all(len(row) == len(table.heads) for row in table.rows)


def test_a_table_says_what_was_measured_and_why_not() -> None:
    found = {table.title: table for table in tables(evaluation())}
    heads, rows = found["Image tokenizer"].heads, found["Image tokenizer"].rows
    first = dict(zip(heads, rows[0], strict=True))
    assert (first["PSNR,\ndB"], first["LPIPS"], first["rFID"]) == ("25.00", "0.1200", "3.500")
    assert dict(zip(heads, rows[1], strict=True))["LPIPS"] == "–"
    variants, card = (
        found["Attention backends and weight quantizers"],
        found["The model card's figures, measured again"],
    )
    assert [row[0] for row in variants.rows] == ["eager", "int4"]
    assert variants.remarks == (("bnb", "it needs a GPU"), ("int4", "group_size 64; from acme 1"))
    assert [row[-1] for row in card.rows] == ["equal", "differs"]
    assert card.remarks == (("no classifier", "scenes"),)


def test_the_page_needs_no_other_file_and_escapes_what_it_shows() -> None:
    page = page_of(evaluation())
    assert "a &lt;model&gt;" in page
    assert "a &lt;dog&gt;" in page
    assert "dogs &amp; co" in page
    assert "<model>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    alternatives = re.findall(r'<img alt="([^"]+)"', page)
    assert len(alternatives) == page.count("<img ") == 3
    assert (
        alternatives[0] == "Histogram of the PSNR of reconstructions. cats: mean 25.0 dB; dogs &amp; co: mean 100.0 dB."
    )
    assert page_of(evaluation()) == page, "the same figures give the same page"


def test_a_page_of_nothing_is_a_page() -> None:
    page = page_of(evaluation(pictures=(), text=(), captions=(), drawings=(), variants=(), card=()))
    assert page.endswith("</html>\n")
    assert "<img" not in page


def test_options_are_checked() -> None:
    assert EvaluationOptions().positions == 512
    for wrong in ({"limit": 0}, {"positions": 0}, {"max_ids": 0}, {"seed": -1}):
        with pytest.raises(ChameleonCoreError, match=next(iter(wrong))):
            EvaluationOptions(**wrong)
