"""Stop strings: nothing from one on is sent, and nothing that may begin one before that is known."""

from __future__ import annotations

import pytest

from chameleon_serve.stop_text import StopText

CASES = [
    (["END"], "abcENDdef", "abc"),
    (["END"], "abcEN", "abcEN"),
    (["ab", "b"], "xxab", "xx"),
    (["aab"], "aaab", "a"),
    (["\n\n"], "a\n\nb\n", "a"),
    ([], "abc", "abc"),
    (["é!"], "caféé!", "café"),
]


@pytest.mark.parametrize(("stops", "text", "expected"), CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_text_ends_before_the_first_stop_string_however_it_is_cut(
    stops: list[str], text: str, expected: str, size: int
) -> None:
    stop = StopText(stops)
    sent = [stop.push(text[start : start + size]) for start in range(0, len(text), size)]
    assert "".join([*sent, stop.flush()]) == expected
    assert stop.is_over == (expected != text)


def test_what_can_not_begin_one_is_sent_immediately() -> None:
    stop = StopText(["END"])
    assert [stop.push(piece) for piece in ("a", "E", "x", "EN", "D")] == ["a", "", "Ex", "", ""]
