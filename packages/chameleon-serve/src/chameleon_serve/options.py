"""The options of the server: which model, where, for whom, and how much."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from chameleon_core import ConfigError

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=1e6)]
Engine = Literal["core", "vllm"]


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``serve`` needs to know, and the limits that it keeps. Raises ``ConfigError`` for impossible values."""

    model: str
    """The model: its folder, the name of an installed one, or a Hub id."""
    name: str | None = None
    """What clients call the model; None, the default, is the last part of ``model``."""
    engine: Engine = "core"
    """What runs the model: "core", the default, is the toolkit's own engine; "vllm" needs chameleon-vllm."""
    engine_options: dict[str, Any] = {}
    """Further arguments of the engine's ``from_pretrained``; {} by default."""
    engine_process: bool = False
    """Whether the toolkit's engine has a process of its own, so that its steps have a core to themselves; False by
    default, because a program then needs ``if __name__ == "__main__":``. The command sets it."""
    threads: Count | None = None
    """Threads on the CPU, ≥ 1; None, the default, is 1 for a small model and torch's own number for others."""
    host: str = "127.0.0.1"
    """The address to listen at; by default this machine's own, which no other reaches."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """The port to listen at, 0…65535, 8000 by default; 0 takes a free one."""
    api_key: str | None = None
    """What clients must send as ``Authorization: Bearer KEY``; None, the default, asks for nothing."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other pages whose scripts may use the server, "*" for all; none by default."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may call the server besides its own; none by default. They count where it listens at a
    loopback address, or where there are any."""
    max_rows: Count = 32
    """How many rows run at a time, ≥ 1, 32 by default; the others wait."""
    max_positions: Count | None = None
    """The room for keys and values of all rows together, in positions; None, the default, for no limit."""
    prompt_chunk: Count | None = 1024
    """How many ids of prompts a step computes at most, so that a long prompt doesn't hold up others; 1,024 by default,
    None for no limit."""
    prefix_positions: Annotated[int, Meta(ge=0)] | None = None
    """The room for beginnings of prompts, which requests that share them compute once, in positions; None, the default,
    for what 64 MiB hold, 0 for none."""
    max_waiting: Count = 256
    """How many requests wait at most, ≥ 1, 256 by default; more are answered with 429."""
    max_rows_per_request: Count = 16
    """How many answers a request may ask for, ≥ 1, 16 by default."""
    max_new_tokens: Count | None = None
    """How many ids a row may write; None, the default, for what the context holds."""
    max_seconds: Seconds = 600.0
    """How long a request may take, the time that it waits included, > 0, 600 by default; its rows then end with what
    they have."""
    max_body_bytes: Count = 20 * 2**20
    """How large a request's body may be, in bytes; 20 MiB by default."""
    max_pictures: Count = 8
    """How many pictures a request may have, ≥ 1, 8 by default."""
    max_pixels: Count = 2**24
    """How many pixels a picture may have; 16,777,216 by default."""
    read_seconds: Seconds = 30.0
    """How long the body of a request may take to come, > 0, 30 by default."""
    send_seconds: Seconds = 60.0
    """How long a piece of an answer may take to be received, > 0, 60 by default; then the request is stopped."""
    stop_seconds: Seconds = 60.0
    """How long requests that run may take to end once the server is told to stop, > 0, 60 by default."""

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            value = getattr(self, field.name)
            try:
                converted = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigError(f"ServeOptions.{field.name}: {error}; got {value!r:.80}.") from error
            msgspec.structs.force_setattr(self, field.name, converted)
        if not self.model:
            raise ConfigError("ServeOptions.model is empty; give a folder, an installed model's name or a Hub id.")
        if self.api_key is not None and (not self.api_key or not self.api_key.isascii() or " " in self.api_key):
            raise ConfigError("ServeOptions.api_key must be ASCII without spaces, and not empty.")
        if self.max_rows_per_request > self.max_rows:
            msgspec.structs.force_setattr(self, "max_rows_per_request", self.max_rows)

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.name or self.model.rstrip("/\\").replace("\\", "/").rpartition("/")[2]

    @property
    def is_loopback(self) -> bool:
        """Whether the server listens at an address of this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
