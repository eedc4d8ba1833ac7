# Vendored. Source: packages/chameleon-core. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Names of models: a folder, a registered name or a Hub id is a folder, and a folder can be uploaded to the Hub.

The arguments are those that ``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` have in ``transformers``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._commits import stored
from ._files import read_json, reading
from .errors import ConfigError, MissingFileError, MissingPackageError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_URL = re.compile(r"[A-Za-z][\w+.-]*://")
SMALL_FILES = ("*.json", "*.jinja")
"""Patterns of the files beside the weights."""
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
IMAGE_WEIGHTS = "model.vqmodel."
"""What the names of the image tokenizer's weights begin with in a model's folder."""

_RESOLVERS = {"chameleon_core": "chameleon_core.checkpoints.resolve", "chameleon_vq": "chameleon_vq.registry"}
"""The modules that look registered names up, by their packages."""
_PUSH = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")
_PACKAGE = __package__ or ""
_DISTRIBUTION = _PACKAGE.replace("_", "-")


@dataclass(frozen=True)
class HubOptions:
    """Where in the Hub files come from, and how; of a local folder, only ``subfolder`` matters."""

    revision: str | None = None
    """A branch, a tag or a commit; None is the main branch. A local folder has none."""
    subfolder: str = ""
    """The folder in the repository, or in the local folder, that has the files."""
    token: str | bool | None = None
    """What the Hub is asked with; None is the one that was stored at login."""
    cache_dir: str | os.PathLike[str] | None = None
    """Where downloads are kept; None is the Hub's own cache."""
    local_files_only: bool = False
    """Whether only what was downloaded before is used."""
    force_download: bool = False
    """Whether files are downloaded again."""

    @classmethod
    def taken_from(cls, arguments: dict[str, Any]) -> HubOptions:
        """Take what belongs here out of the arguments of a ``from_pretrained``. Raises ``ConfigError``."""
        old = arguments.pop("use_auth_token", None)
        if old is not None:
            arguments.setdefault("token", old)
        if arguments.pop("proxies", None):
            raise ConfigError("proxies isn't an argument of the Hub's client: set HTTPS_PROXY in the environment.")
        for name in ("resume_download", "mirror"):
            if arguments.pop(name, None):
                raise ConfigError(f"{name} isn't an argument of the Hub's client any more. Leave it out.")
        # Nothing here runs code of a folder, whether or not it may; the others are for transformers alone.
        for name in ("trust_remote_code", "_commit_hash", "_from_auto", "_from_pipeline", "user_agent"):
            arguments.pop(name, None)
        options = cls(**{name: arguments.pop(name) for name in cls.__dataclass_fields__ if name in arguments})
        options.check()
        return options

    def check(self) -> None:
        """Raise ``ConfigError`` where a value has another type than its field."""
        for name, kinds in (
            ("revision", (str, type(None))),
            ("subfolder", (str,)),
            ("token", (str, bool, type(None))),
            ("cache_dir", (str, os.PathLike, type(None))),
            ("local_files_only", (bool,)),
            ("force_download", (bool,)),
        ):
            if not isinstance(getattr(self, name), kinds):
                names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
                raise ConfigError(f"{name} must be {names}; got {getattr(self, name)!r}.")

    def inside(self, folder: Path) -> Path:
        """Return the subfolder of a local folder. Raises ``ConfigError`` where a revision of one is requested.

        Raises ``MissingFileError`` where there is none, and ``FileAccessError`` where it can't be listed.
        """
        if self.revision not in (None, "main"):
            raise ConfigError(
                f"revision is {self.revision!r}, and {folder} is a local folder, which has no revisions. Leave it out, "
                "or pass a Hub id."
            )
        if self.subfolder and not os.path.isdir(folder / self.subfolder):
            raise MissingFileError(f"{folder} has no subfolder {self.subfolder!r}.")
        found = folder / self.subfolder if self.subfolder else folder
        with reading(found), os.scandir(found):
            return found


NO_OPTIONS = HubOptions()
"""The main branch, as the environment says."""


def find_folder(
    name: str | os.PathLike[str],
    options: HubOptions = NO_OPTIONS,
    *,
    what: str,
    patterns: Sequence[str] = SMALL_FILES,
    weights: str | None = None,
) -> Path:
    """Return the folder of a model: an existing folder, the name of an installed model, or a Hub id ``owner/name``.

    The three are tried in this order. Names are those of this package, and those of chameleon-core, if it is installed.
    Of a repository only files that match ``patterns`` are downloaded, and ``weights``, as ``download`` says. Raises
    ``MissingFileError`` with what was tried, calling it ``what``, and ``MissingPackageError`` where huggingface-hub
    isn't installed.
    """
    check_name(name, what)
    folder = Path(name)
    if os.path.isdir(folder):
        return options.inside(folder)
    if os.path.exists(folder):
        raise MissingFileError(f"{os.fspath(name)} is a file; expected the folder of {what}.")
    tried = [missing_folder(folder)]
    if isinstance(name, str):
        installed = _installed_folder(name, tried)
        if installed is not None:
            return options.inside(installed)
        if HUB_ID.fullmatch(name):
            return download(name, options, tried=tried, what=what, patterns=patterns, weights=weights)
        tried.append("not a Hub id, which has the form 'owner/name'")
    raise MissingFileError(f"can't find {what} {os.fspath(name)!r}: {'; '.join(tried)}.")


def locate(name: Any, arguments: dict[str, Any], *, what: str) -> Path:
    """Take the arguments of the Hub out of those of a ``from_pretrained``, and return the folder that ``name`` means.

    The name may be given as ``pretrained_model_name_or_path``, too. Raises what ``find_folder`` does.
    """
    if name is None:
        name = arguments.pop("pretrained_model_name_or_path", None)
    return find_folder(name, HubOptions.taken_from(arguments), what=what)


def check_name(name: Any, what: str) -> None:
    """Raise ``MissingFileError`` for a name that is empty or a URL, ``ConfigError`` for what isn't a name."""
    if not isinstance(name, str | os.PathLike):
        raise ConfigError(
            f"the name of {what} is a {type(name).__name__}; expected a folder, a registered name or a Hub id."
        )
    text = os.fspath(name)
    if not text:
        # Path would make it the current folder.
        raise MissingFileError(f"the name of {what} is empty; expected a folder, a registered name or a Hub id.")
    if isinstance(text, str) and _URL.match(text):
        raise MissingFileError(f"{text} is a URL; expected a folder, a registered name, or a Hub id like 'owner/name'.")


def missing_folder(folder: Path) -> str:
    """Return a clause that says where there is no such folder."""
    return f"no folder {str(folder)!r}" + ("" if folder.is_absolute() else f" in {Path.cwd()}")


def download(
    hub_id: str,
    options: HubOptions,
    *,
    tried: Iterable[str] = (),
    what: str,
    patterns: Sequence[str] = SMALL_FILES,
    weights: str | None = None,
) -> Path:
    """Return the folder of a repository of the Hub, downloaded or from its cache.

    With ``weights``, the files that hold weights whose names begin with it come, too; the small files say which.
    """
    folder = _download(hub_id, options, tried, what, patterns)
    if weights is None:
        return folder
    return _download(hub_id, options, tried, what, (*patterns, *weight_files(folder, weights)))


def weight_files(folder: Path, prefix: str = "") -> tuple[str, ...]:
    """Return the names of the files of a folder's weights, as its index says; of those with ``prefix``, if any have it.

    Where there is no index, weights are one file. Raises ``FileFormatError``.
    """
    index = stored(folder, INDEX_FILE)
    weight_map = read_json(index).get("weight_map") if os.path.isfile(index) else None
    if not isinstance(weight_map, dict) or not all(isinstance(each, str) for each in weight_map.values()):
        return (WEIGHTS_FILE,)
    of_prefix = {file for name, file in weight_map.items() if name.startswith(prefix)}
    return tuple(sorted(of_prefix or set(weight_map.values())))


def _download(hub_id: str, options: HubOptions, tried: Iterable[str], what: str, patterns: Sequence[str]) -> Path:
    before = "; ".join(tried)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingPackageError(_hub_is_missing(f"{before}. To look for {hub_id!r} on the Hub")) from error
    inside = [f"{options.subfolder}/{pattern}" for pattern in patterns] if options.subfolder else list(patterns)
    names = ("revision", "token", "cache_dir", "local_files_only", "force_download")
    given = {name: getattr(options, name) for name in names if getattr(options, name) not in (None, False)}
    if options.token is False:  # anonymously, which isn't the default
        given["token"] = False
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=inside, **given))
    # huggingface_hub raises an OSError for an unknown id, a gated model, no network and a full disk.
    except (OSError, ValueError) as error:
        raise MissingFileError(
            f"can't find {what} {hub_id!r}: {before}; from the Hub: {str(error).rstrip('.')}."
        ) from error
    return HubOptions(subfolder=options.subfolder).inside(folder)


def take_push_options(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Take the arguments of an upload out of those of a ``save_pretrained``; None where nothing is uploaded.

    Raises ``ConfigError`` where they are given without ``push_to_hub=True``.
    """
    push = arguments.pop("push_to_hub", False)
    token = arguments.pop("token", None)  # which scripts pass in any case
    given = {name: arguments.pop(name) for name in _PUSH if name in arguments}
    if not push:
        if given:
            raise ConfigError(f"{', '.join(given)} belongs to an upload: pass push_to_hub=True, too, or leave it out.")
        return None
    return {**given, "token": token}


def push_saved(save: Callable[[Path], object], repo_id: str, options: Mapping[str, Any]) -> str:
    """Upload what ``save`` writes into a folder to a repository of the Hub, and return the address of the commit.

    The repository is made where there is none. Raises ``ConfigError`` for unknown options, ``MissingPackageError``
    without huggingface-hub.
    """
    import tempfile  # here, because it takes a while and uploads are rare

    _check_push(options)
    api = _api(repo_id)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return _upload(api, Path(folder), repo_id, options)


def _check_push(options: Mapping[str, Any]) -> None:
    known = {*_PUSH, "token"} - {"repo_id"}
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"They are {', '.join(sorted(known))}."
            raise ConfigError(f"push_to_hub has no argument {name!r}. {hint}")


def _upload(api: Any, folder: Path, repo_id: str, options: Mapping[str, Any]) -> str:
    left = dict(options)
    if left.pop("tags", None):
        raise ConfigError("tags are lines of a model card; write them into the README.md of the folder.")
    token, private = left.pop("token", None), left.pop("private", None)
    repository = api.create_repo(repo_id, token=token, private=private, exist_ok=True)
    found = getattr(repository, "repo_id", repo_id)
    message = left.pop("commit_message", None) or "Upload with the Chameleon toolkit"
    given = {name: value for name, value in left.items() if value not in (None, False)}
    commit = api.upload_folder(repo_id=found, folder_path=folder, commit_message=message, token=token, **given)
    return str(getattr(commit, "commit_url", commit))


def _api(repo_id: str) -> Any:
    if not isinstance(repo_id, str) or not repo_id:
        raise ConfigError(f"the repository is {repo_id!r}; expected a name like 'owner/name', or 'name' for your own.")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingPackageError(_hub_is_missing(f"To upload to {repo_id!r}")) from error
    return HfApi()


def _hub_is_missing(purpose: str) -> str:
    return (
        f"{purpose}, huggingface-hub is needed. From the toolkit's folder: "
        f'python -m pip install ./packages/chameleon-backends "./packages/{_DISTRIBUTION}[hub]"'
        if _DISTRIBUTION == "chameleon-core"
        else f"{purpose}, huggingface-hub is needed. From the toolkit's folder: "
        f'python -m pip install "./packages/{_DISTRIBUTION}[hub]"'
    )


def model_folder(name: str) -> Path | None:
    """Return the folder of a model that chameleon-core knows by name; None where it doesn't or isn't installed."""
    return _asked("chameleon_core", name, [])


def _installed_folder(name: str, tried: list[str]) -> Path | None:
    """Return the folder that this package or chameleon-core knows by a name, None where neither does."""
    own = _asked(_PACKAGE, name, tried) if _PACKAGE in _RESOLVERS else None
    if own is not None or _PACKAGE == "chameleon_core":
        return own
    return _asked("chameleon_core", name, tried)


def _asked(package: str, name: str, tried: list[str]) -> Path | None:
    if importlib.util.find_spec(package) is None:
        tried.append(f"no registered name, which {package.replace('_', '-')} would look up")
        return None
    # Named as a text: a leaf doesn't need core, and a configuration lies below what looks names up.
    folder: Path | None = importlib.import_module(_RESOLVERS[package]).installed_folder(name, tried)
    return folder
