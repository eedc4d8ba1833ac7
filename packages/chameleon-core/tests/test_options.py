"""The options of generation, as a configuration and as keyword arguments."""

from __future__ import annotations

import math
from typing import Any, get_type_hints

import pytest

from chameleon_core.errors import ConfigError
from chameleon_core.generation.options import GenerationChanges, GenerationOptions, PipelineChanges


def test_the_keyword_arguments_are_the_fields_with_their_types() -> None:
    fields = get_type_hints(GenerationOptions, include_extras=True)
    expected = {name: fields[name] for name in GenerationOptions.__struct_fields__ if name != "extras"}
    assert get_type_hints(GenerationChanges, include_extras=True) == expected
    assert GenerationChanges.__total__ is False
    del expected["modality"]
    assert get_type_hints(PipelineChanges, include_extras=True) == expected
    assert not GenerationChanges.__required_keys__


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typical_p": 0}, "typical_p"),
        ({"typical_p": 1.5}, "typical_p"),
        ({"image_typical_p": 0}, "image_typical_p"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"forbidden_ids": (-1,)}, "forbidden_ids"),
        ({"forbidden_sequences": ((),)}, "forbidden_sequences"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens is 5, above max_new_tokens, 4"),
        ({"logits_processors": ("",)}, "takes a name"),
        ({"logits_processors": ({"k": 5},)}, "takes a name"),
        ({"logits_processors": (7,)}, "logits_processors"),
        pytest.param(
            {"logits_processors": ({"name": "top-k", "k": object()},)},
            "'top-k' that can't be written as JSON",
            id="an option that JSON has no form for",
        ),
        ({"suppress_tokens": [5]}, "use forbidden_ids"),
        ({"bad_words_ids": [[5]]}, "use forbidden_ids, and forbidden_sequences"),
        ({"min_length": 5}, "use min_new_tokens"),
        ({"logits_processor": []}, "use logits_processors"),
        ({"typical": 0.5}, "Did you mean 'typical_p'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationOptions(**changes)


def test_options_of_processors_must_be_finite() -> None:
    with pytest.raises(ConfigError, match="'top-p'"):
        GenerationOptions(logits_processors=({"name": "top-p", "p": math.nan},))
