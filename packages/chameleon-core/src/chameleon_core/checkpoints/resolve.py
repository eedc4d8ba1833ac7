"""Find the folder of a model by what a user calls it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from chameleon_backends.errors import UnknownPluginError

from .._boundary import translates_errors
from ..errors import MissingPackageError, ModelNotFoundError
from ..registry import PRETRAINED_HOOK, REGISTRY

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Pickled weights aren't read, so they aren't downloaded.
_HUB_PATTERNS = ["*.json", "*.safetensors"]


@translates_errors
def resolve_folder(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a model: an existing folder, the name of an installed model, or a Hub id ``owner/name``.

    The three are tried in this order, so that a local folder is never shadowed. A Hub id is downloaded, or found in
    the cache of the Hub, by ``huggingface_hub``, which the extra ``hub`` installs.

    Raises ``ModelNotFoundError`` with what was tried, ``MissingPackageError`` where a Hub id needs the extra, and
    ``BrokenPluginError`` where the plugin that has the name can't be used.
    """
    if not str(name):
        # Path would make it the current folder.
        raise ModelNotFoundError(
            "the name of the model is empty; expected a folder, the name of an installed model or a Hub id."
        )
    folder = Path(name)
    if folder.is_dir():
        REGISTRY.warn_of_hidden(PRETRAINED_HOOK, name)
        return folder
    if folder.exists():
        raise ModelNotFoundError(f"{folder} is a file; expected a folder with the config and the weights.")
    tried = [f"no folder {str(folder)!r}" + ("" if folder.is_absolute() else f" in {Path.cwd()}")]
    if isinstance(name, str):
        try:
            return REGISTRY.get(PRETRAINED_HOOK, name).make_folder()
        except UnknownPluginError as error:
            tried.append(str(error).rstrip("."))
        if _HUB_ID.fullmatch(name):
            return _download(name, tried)
        tried.append("not a Hub id, which has the form 'owner/name'")
    raise ModelNotFoundError(f"can't find the model {str(name)!r}: {'; '.join(tried)}.")


def _download(hub_id: str, tried: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingPackageError(
            f"{'; '.join(tried)}. To look for {hub_id!r} on the Hub, huggingface-hub is needed. From the toolkit's "
            'folder: python -m pip install ./packages/chameleon-backends "./packages/chameleon-core[hub]"'
        ) from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_PATTERNS))
    # huggingface_hub raises an OSError for an unknown id, a gated model, no network and a full disk.
    except OSError as error:
        raise ModelNotFoundError(
            f"can't find the model {hub_id!r}: {'; '.join(tried)}; from the Hub: {str(error).rstrip('.')}."
        ) from error
