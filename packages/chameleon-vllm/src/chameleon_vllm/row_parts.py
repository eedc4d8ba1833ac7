"""What a request of vLLM says of the row that it is a part of, as one string of JSON among the sampling parameters.

Without guidance a row is one request. Guided, it is a group of requests, one for each context: the row's own ids, which
is member 0, and the branches of the guidance, whose ids have another beginning and grow by the same new ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from chameleon_core import ChameleonConfig, GenerationError, GenerationOptions, Request, TokenLayout
from chameleon_core.generation import RowMachine, TextDecoder, start_machine

KEY = "chameleon"
"""The name of the sampling parameter: an entry of ``SamplingParams.extra_args``, or of ``vllm_xargs`` through HTTP."""
MAX_MEMBERS = 3
"""The most requests of a group: the row's own ids, its pictures alone, and nothing but the open picture."""


class Signals(NamedTuple):
    """Ids that no row writes, by which a processor ends requests, since an exception there would end the engine."""

    ended: int
    """The row has ended, or the stretch of it that the request writes."""
    failed: int
    """The request isn't one of a row, or something went wrong in it."""
    split: int
    """The members of the group aren't in step."""

    @classmethod
    def of(cls, layout: TokenLayout) -> Signals:
        """Return those of a vocabulary."""
        return cls(ended=layout.pad_id, failed=layout.placeholder_id, split=layout.bos_id)


class RowPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a request is of a row."""

    options: dict[str, Any] = {}
    """The fields of the row's ``GenerationOptions`` that aren't the default, of member 0."""
    prompt_length: int = 0
    """How many of the request's ids are the row's prompt; the others were written. Of member 0."""
    index: int = 0
    """The index of the row among those of one seed."""
    group: str = ""
    """The name of the group, which no other has at the same time; "" for a row that isn't guided."""
    member: int = 0
    """The number of the request in its group."""
    weights: tuple[float, ...] = (1.0,)
    """The weights of the members' logits, which sum to 1."""

    def encode(self) -> str:
        """Return the part as a sampling parameter has it."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: object) -> RowPart:
        """Return a part. Raises ``GenerationError`` where the text isn't one."""
        if not isinstance(text, str):
            raise GenerationError(f"the parameter {KEY!r} must be a string of JSON; got {type(text).__name__}.")
        try:
            part = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise GenerationError(f"the parameter {KEY!r} can't be read: {error}.") from error
        if not 1 <= len(part.weights) <= MAX_MEMBERS or not 0 <= part.member < len(part.weights):
            raise GenerationError(
                f"the parameter {KEY!r} has member {part.member} of {len(part.weights)}; a group has 1 to "
                f"{MAX_MEMBERS} members, numbered from 0."
            )
        if len(part.weights) > 1 and not part.group:
            raise GenerationError(f"the parameter {KEY!r} has {len(part.weights)} weights and no name of a group.")
        if part.prompt_length < 1 and not part.member:
            raise GenerationError(f"the parameter {KEY!r} needs prompt_length, at least 1; got {part.prompt_length}.")
        if not part.member:
            part.checked_options()
        return part

    def checked_options(self) -> GenerationOptions:
        """Return the row's options. Raises ``ConfigError`` where they aren't any, ``GenerationError`` as below."""
        options = GenerationOptions(**self.options)
        check_options(options)
        return options


def check_options(options: GenerationOptions) -> None:
    """Raise ``GenerationError`` for what vLLM's engine can't do."""
    if options.decoding != "plain":
        raise GenerationError(
            f"decoding is {options.decoding!r:.80}, and vLLM decodes by itself; leave it out, which is 'plain'."
        )
    if options.cache_implementation != "dynamic":
        raise GenerationError(
            f"cache_implementation is {options.cache_implementation!r}, and vLLM has a cache of its own; leave it out."
        )


def check_signals(machine: RowMachine, layout: TokenLayout) -> None:
    """Raise ``GenerationError`` where a row may write an id that is a signal."""
    taken = sorted(machine.row.stop_ids.intersection(Signals.of(layout)))
    if taken:
        raise GenerationError(
            f"stop_ids or eos_token_ids have {taken}, ids of <pad>, <s> or the placeholder of pictures, which signal "
            "something else in vLLM. Use others."
        )


def options_of(options: GenerationOptions) -> Mapping[str, Any]:
    """Return the fields that aren't the default, as ``RowPart`` has them."""
    defaults = GenerationOptions().to_dict()
    own = {name: value for name, value in options.to_dict().items() if name not in options.extras}
    return {name: value for name, value in own.items() if value != defaults[name]}


def machine_of(
    part: RowPart,
    ids: Sequence[int],
    config: ChameleonConfig,
    layout: TokenLayout,
    tokenizer: TextDecoder | None,
) -> RowMachine:
    """Return the machine of the row whose member 0 has these ids, prompt and written ones.

    Raises an error of the toolkit where they aren't those of a row.
    """
    request = Request(
        prompt=ids[: part.prompt_length],
        options=part.checked_options(),
        index=part.index,
        written=ids[part.prompt_length :],
    )
    machine = start_machine(request, config, layout=layout, tokenizer=tokenizer)
    check_signals(machine, layout)
    return machine
