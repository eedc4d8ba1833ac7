"""Fields of requests: unknown and missing ones are errors of this package."""

from __future__ import annotations

import pytest
import torch

from chameleon_backends import AttentionSpec, ConfigError, LinearSpec


def test_an_unknown_field_is_an_error_with_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"AttentionSpec has no field 'batchsize'\. Did you mean 'batch_size'\?"):
        AttentionSpec(batchsize=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"LinearSpec has no field 'zz'\. The fields are in_features, out_features"):
        LinearSpec(zz=1)  # type: ignore[call-arg]


def test_a_missing_field_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match="LinearSpec needs out_features, which is missing"):
        LinearSpec(in_features=1, dtype=torch.float32, device=torch.device("cpu"))  # type: ignore[call-arg]
