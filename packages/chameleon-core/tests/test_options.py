"""The options of generation, as a configuration and as keyword arguments."""

from __future__ import annotations

from typing import get_type_hints

from chameleon_core.generation.options import GenerationChanges, GenerationOptions, PipelineChanges


def test_the_keyword_arguments_are_the_fields_with_their_types() -> None:
    fields = get_type_hints(GenerationOptions, include_extras=True)
    expected = {name: fields[name] for name in GenerationOptions.__struct_fields__ if name != "extras"}
    assert get_type_hints(GenerationChanges, include_extras=True) == expected
    assert GenerationChanges.__total__ is False
    del expected["modality"]
    assert get_type_hints(PipelineChanges, include_extras=True) == expected
    assert not GenerationChanges.__required_keys__
