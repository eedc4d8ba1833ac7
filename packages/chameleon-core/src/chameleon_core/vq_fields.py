"""The entry ``vq_config`` of a model's configuration: a mapping whose entries are read and assigned as attributes, too.

It stands for the configuration of the image tokenizer, a class of chameleon-vq, which core works without.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Self

from .errors import ConfigError

_PUBLISHED: Mapping[str, Any] = {
    "embed_dim": 256,
    "num_embeddings": 8192,
    "double_latent": False,
    "latent_channels": 256,
    "resolution": 512,
    "in_channels": 3,
    "base_channels": 128,
    "channel_multiplier": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": None,
    "dropout": 0.0,
    "attn_type": "vanilla",
    "initializer_range": 0.02,
    "model_type": "chameleon_vqgan",
}
EXTENSIONS = frozenset({"out_channels", "norm_num_groups", "beta", "quantizer", "quantizer_options"})
"""Fields of chameleon-vq that ``transformers`` doesn't have."""
_OF_ITS_CLASS = frozenset(
    {
        "from_dict",
        "from_json_file",
        "from_pretrained",
        "get_config_dict",
        "get_text_config",
        "push_to_hub",
        "save_pretrained",
        "to_diff_dict",
        "to_json_file",
        "to_json_string",
        "update_from_string",
        "validate",
    }
)
"""Methods of a configuration of chameleon-vq, which does them."""


class VQFields(dict[str, Any]):
    """The entries of ``vq_config``; an attribute that isn't among them has the published value.

    Once a model was made of the configuration, no entry can be changed, as of the configuration itself.
    """

    __slots__ = ("_is_kept",)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in _PUBLISHED:
            return _PUBLISHED[name]
        if name in _OF_ITS_CLASS or (not name.startswith("_") and importlib.util.find_spec("chameleon_vq")):
            from .optional_packages import vq_package  # which imports torch

            config = vq_package().ChameleonVQVAEConfig
            if name == "update_from_string":
                return self._update_from_string
            if hasattr(config, name) or hasattr(config(), name):
                return getattr(config.from_dict(self.to_dict()), name)
        raise AttributeError(f"vq_config has no entry {name!r}.{_hint(name, self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __setitem__(self, name: str, value: Any) -> None:
        self._check_free()
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._check_free()
        super().__delitem__(name)

    def update(self, config_dict: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **entries: Any) -> None:  # type: ignore[override]
        """Change entries, all of them or none. Raises ``ConfigError`` for a name that isn't an entry."""
        changes = {**dict(config_dict), **entries}
        for name in changes:
            if name not in self and name not in _PUBLISHED and name not in EXTENSIONS:
                hint = _hint(name, self) or f" To add it: config.vq_config[{name!r}] = ..."
                raise ConfigError(f"vq_config has no entry {name!r}.{hint}")
        self._check_free()
        super().update(changes)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc]  # it takes whatever ``update`` takes
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return an entry, which is added where it is missing. Raises ``ConfigError`` for a name that isn't one."""
        if name not in self:
            self.update({name: default})
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        """Remove an entry and return it."""
        self._check_free()
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the last entry and return it."""
        self._check_free()
        return super().popitem()

    def clear(self) -> None:
        """Remove all entries, so that each has the published value."""
        self._check_free()
        super().clear()

    def copy(self) -> Self:
        """Return a copy, whose entries can be changed."""
        return type(self)(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def to_dict(self) -> dict[str, Any]:
        """Return all entries, with the published values of those that aren't set."""
        return {**_PUBLISHED, **self}

    def kept_for_a_model(self) -> Self:
        """Return these entries, which refuse changes from now on."""
        object.__setattr__(self, "_is_kept", True)
        return self

    def _check_free(self) -> None:
        if getattr(self, "_is_kept", False):
            raise ConfigError(
                "a model was made of this configuration and keeps its vq_config. Make another model of "
                "config.replace(vq_config={...})."
            )

    def _update_from_string(self, update_str: str) -> None:
        """Change entries by a text, as chameleon-vq reads it."""
        changed = copy.copy(self.from_dict(self.to_dict()))
        changed.update_from_string(update_str)
        self.update({name: value for name, value in changed.to_dict().items() if value != self.to_dict().get(name)})


def refuse_misspelt(entries: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for an entry whose name is nearly that of a field: it would have no effect.

    Others are kept: published files have entries that nothing here reads.
    """
    for name in entries:
        if isinstance(name, str) and (hint := _hint(name, (), cutoff=0.8)):
            raise ConfigError(f"vq_config has no entry {name!r}.{hint}")


def _hint(name: str, others: Iterable[str], *, cutoff: float = 0.6) -> str:
    known = {*others, *_PUBLISHED, *EXTENSIONS}
    close = () if name in known else difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""
