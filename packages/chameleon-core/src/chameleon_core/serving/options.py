"""What the replicas of a model are: which model, on which engine, how many, with which resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .._config import Config, fields_of
from ..errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]


class ReplicaOptions(Config, frozen=True, kw_only=True):
    """The arguments of ``serve run chameleon_core.serving:app``."""

    model: str
    """The model: its folder, the name of an installed one, or a Hub id."""
    engine: str = "chameleon_core.serving:SharedChameleon"
    """The class that runs it, as ``module:name``; by default the engine of chameleon-core. On vLLM, it is
    "chameleon_vllm:VLLMChameleon"."""
    engine_options: dict[str, Any] = {}
    """Arguments of the class's ``from_pretrained``, on the command line as a JSON object; {} by default."""
    replicas: Count = 1
    """Processes that each have the model; ≥ 1, by default 1."""
    cpus: Amount = 1.0
    """Processors that Ray reserves for a replica, and, rounded down and at least 1, its threads; ≥ 0, by default 1."""
    gpus: Amount = 0.0
    """GPUs that Ray reserves for a replica; ≥ 0, by default 0."""
    requests: Count = 16
    """Requests that a replica works on at a time; the others wait. ≥ 1, by default 16."""

    @classmethod
    def from_texts(cls, texts: Mapping[str, Any]) -> ReplicaOptions:
        """Return the options of ``name=value`` arguments, whose values are texts. Raises ``ConfigError``."""
        if "model" not in texts:
            raise ConfigError("replicas need a model: add model=..., a folder, an installed model's name or a Hub id.")
        types = {field.name: field.type for field in fields_of(cls)}
        return cls(**{name: _parsed(value, types.get(name, str)) for name, value in texts.items()})


def _parsed(value: Any, wanted: Any) -> Any:
    """Return a value of a type for a text, or the text where it says none: making the options refuses it."""
    if not isinstance(value, str) or wanted is str:
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value
