"""Find the folder of a model by what a user calls it."""

from __future__ import annotations

import os
from pathlib import Path

from chameleon_backends.errors import UnknownPluginError

from .._boundary import translates_errors
from .._commits import stored
from .._hub import HUB_ID, NO_OPTIONS, SMALL_FILES, HubOptions, check_name, download, missing_folder, weight_files
from ..config import CONFIG_FILE
from ..errors import MissingFileError, ModelNotFoundError
from ..formats.extra_weights import EXTRA_FILE
from ..formats.hf import INDEX_FILE, WEIGHTS_FILE
from ..registry import PRETRAINED_HOOK, REGISTRY

_WHAT = "the model"
_SMALL = (*SMALL_FILES, "*vqgan.yaml")
# Pickled weights aren't read, but for those of Meta's layout, so others aren't downloaded.
_META = ("*consolidated*.pth", "*vqgan.ckpt", f"*{EXTRA_FILE}")


@translates_errors
def resolve_folder(name: str | os.PathLike[str], hub: HubOptions = NO_OPTIONS) -> Path:
    """Return the folder of a model: an existing folder, the name of an installed model, or a Hub id ``owner/name``.

    The three are tried in this order, so that a local folder is never shadowed. A file ``*.gguf``, which is a model by
    itself, is returned as it is. A Hub id is downloaded, or found in the cache of the Hub, by ``huggingface_hub``,
    which the extra ``hub`` installs; ``hub`` says how.

    Raises ``ModelNotFoundError`` with what was tried, ``MissingPackageError`` where a Hub id needs the extra, and
    ``BrokenPluginError`` where the plugin that has the name can't be used.
    """
    try:
        check_name(name, _WHAT)
        folder = Path(name)
        if os.path.isdir(folder):
            REGISTRY.warn_of_hidden(PRETRAINED_HOOK, name)
            return hub.inside(folder)
        if is_model_file(folder):
            if hub.subfolder:
                raise ModelNotFoundError(f"{folder} is a file, and has no subfolder {hub.subfolder!r}.")
            return folder
        if os.path.exists(folder):
            raise ModelNotFoundError(
                f"{folder} is a file; expected a folder with the config and the weights. Pass the one that it is in."
            )
        tried = [missing_folder(folder)]
        if isinstance(name, str):
            installed = installed_folder(name, tried)
            if installed is not None:
                return hub.inside(installed)
            if HUB_ID.fullmatch(name):
                return _downloaded(name, hub, tried)
            tried.append("not a Hub id, which has the form 'owner/name'")
    except MissingFileError as error:
        raise ModelNotFoundError(str(error)) from error
    raise ModelNotFoundError(f"can't find the model {str(name)!r}: {'; '.join(tried)}.")


def is_model_file(path: Path) -> bool:
    """Return whether a path is that of a file that is a model by itself: GGUF."""
    return path.suffix == ".gguf" and os.path.isfile(path)


def _downloaded(hub_id: str, hub: HubOptions, tried: list[str]) -> Path:
    """Return the folder of a repository, with the weights of one layout where it has several: that which is read.

    The small files, which come first, say which it is.
    """
    folder = download(hub_id, hub, tried=tried, what=_WHAT, patterns=_SMALL)
    weights = _weights_of(folder)
    return download(hub_id, hub, tried=tried, what=_WHAT, patterns=(*_SMALL, *weights))


def _weights_of(folder: Path) -> tuple[str, ...]:
    """Return patterns of the files of weights that belong to the small files of a folder."""
    has_config = any(os.path.isfile(stored(folder, name)) for name in (INDEX_FILE, CONFIG_FILE))
    return weight_files(folder) if has_config else (WEIGHTS_FILE, *_META)


def installed_folder(name: str, tried: list[str]) -> Path | None:
    """Return the folder of the installed model of a name; None, with the reason in ``tried``, where there is none.

    The packages that don't import core find it through ``_hub``. Raises ``BrokenPluginError``.
    """
    try:
        return REGISTRY.get(PRETRAINED_HOOK, name).make_folder()
    except UnknownPluginError as error:
        tried.append(str(error).rstrip("."))
        return None
