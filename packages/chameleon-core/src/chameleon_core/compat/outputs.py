"""What a model returns: read by attribute, key, index or as a tuple, as the outputs of ``transformers`` are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from torch.utils import _pytree as pytree

from ..errors import ArgumentError, UnknownAttributeError


class ModelOutputs(dict[str, Any]):
    """A mapping from the names of what was computed to its values, in the order of ``fields``.

    What wasn't requested is None as an attribute, and is no key. An index or a slice counts what there is;
    ``to_tuple()`` returns all of it. As a mapping it iterates over names, so that ``first, *rest = output.to_tuple()``
    is how it is unpacked. Values may be replaced, and none deleted. Subclasses are pytrees.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    """The names of everything that there may be."""

    def __init__(self, values: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        given = {**(values or {}), **fields}
        unknown = given.keys() - set(self.fields)
        if unknown:
            raise ArgumentError(
                f"{type(self).__name__} has no {', '.join(map(repr, sorted(unknown)))}; it has "
                f"{', '.join(self.fields)}."
            )
        super().__init__({name: given[name] for name in self.fields if given.get(name) is not None})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), list(output)),
            lambda values, names: cls(dict(zip(names, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
            flatten_with_keys_fn=lambda output: (
                [(pytree.MappingKey(name), value) for name, value in output.items()],
                list(output),
            ),
        )

    def __getattr__(self, name: str) -> Any:
        if name in type(self).fields:
            return self.get(name)
        raise self._lacks(f"attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            raise self._lacks(f"field {name!r}")
        super().__setitem__(name, value)

    def _lacks(self, what: str) -> UnknownAttributeError:
        return UnknownAttributeError(f"{type(self).__name__} has no {what}; it has {', '.join(self.fields)}.")

    def to_tuple(self) -> tuple[Any, ...]:
        """Return what was computed, in the order of ``fields``."""
        return tuple(self.values())

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError(f"nothing can be taken from a {type(self).__name__} or added to it; copy it: dict(output).")

    __delitem__ = pop = popitem = clear = setdefault = update = _refuse

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"
