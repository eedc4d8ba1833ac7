"""The model card says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes.emoji.card import FIGURES, PACKAGE, filled, table


def test_a_table_is_markdown() -> None:
    assert table(("what", "how many"), [("apples", "3")]) == "| what | how many |\n| --- | ---: |\n| apples | 3 |"


def test_the_card_has_the_figures_beside_it_and_shows_every_picture() -> None:
    card = (PACKAGE / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert filled(card, PACKAGE) == card
    for path in FIGURES:
        assert (PACKAGE / path).is_file()
        assert path.endswith(".json") or f"]({path})" in card


def test_a_card_without_the_marks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have <!-- tokenizer -->"):
        filled("# A card", PACKAGE)
