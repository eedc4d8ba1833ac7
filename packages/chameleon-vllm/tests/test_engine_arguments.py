"""An engine argument is given to vLLM, or refused with the reason; none is left out silently."""

from __future__ import annotations

import pytest

from chameleon_core import ConfigError
from chameleon_vllm import VLLMChameleon
from chameleon_vllm.engine_arguments import ALLOWED, REFUSED, check_arguments


def test_arguments_of_memory_ranks_and_speed_can_be_given() -> None:
    check_arguments(dict.fromkeys(ALLOWED))
    assert not REFUSED.keys() & set(ALLOWED)


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_cant_be_given_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_arguments({"max_num_seqs": 4, name: None})
    assert str(caught.value) == f"the engine argument {name!r} can't be given: {REFUSED[name]}."


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tensor_paralel_size", "Did you mean 'tensor_parallel_size'?"),
        ("gpu_memory_utilisation", "Did you mean 'gpu_memory_utilization'?"),
        ("tokens_only", "Those that can be given are max_num_seqs, "),
    ],
)
def test_any_other_name_is_refused_with_those_that_there_are(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_arguments({name: 1})
    assert hint in str(caught.value)


def test_arguments_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="load_format"):
        VLLMChameleon.from_pretrained("a folder that there isn't", load_format="dummy")
