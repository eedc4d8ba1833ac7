"""Files of codes: those of many pictures as safetensors, uint16, with the names and the tokenizer's fingerprint.

Shapes: B pictures, N codes per picture.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._files import replacing
from .errors import CodesError, FileFormatError, MissingFileError
from .tokenizer import ImageTokenizer

FORMAT = "chameleon-vq-codes-1"


@dataclass(frozen=True, slots=True)
class CodesFile:
    """The contents of a file of codes."""

    codes_BN: Tensor
    """The codes, one row per picture: int64 here, uint16 in the file."""
    names: tuple[str, ...]
    """A name per picture: a relative path with "/" as the separator."""
    latent_size: tuple[int, int]
    """Height and width of the latent grid."""
    fingerprint: str
    """``ImageTokenizer.fingerprint`` of the tokenizer that made the codes."""

    def check_tokenizer(self, tokenizer: ImageTokenizer) -> None:
        """Raise ``CodesError`` if another tokenizer made the codes, which would then decode to noise."""
        if tokenizer.fingerprint != self.fingerprint:
            raise CodesError(
                f"these codes were made by the tokenizer {self.fingerprint[:16]}…, but this one is "
                f"{tokenizer.fingerprint[:16]}…, with another encoder or codebook. Decode them with the tokenizer that "
                "made them, or encode the pictures again."
            )


def write_codes(
    path: str | os.PathLike[str], codes_BN: Tensor, *, names: Sequence[str], tokenizer: ImageTokenizer
) -> None:
    """Write codes [B, N] of pictures at the tokenizer's default resolution, one name per row.

    Raises ``CodesError`` if the codes have another shape or don't fit into 16 bits, ``FileFormatError`` if a name isn't
    a relative path.
    """
    if codes_BN.ndim != 2 or codes_BN.shape != (len(names), tokenizer.tokens_per_image):
        raise CodesError(
            f"expected codes [{len(names)}, {tokenizer.tokens_per_image}], one row per name, got "
            f"{list(codes_BN.shape)}."
        )
    if tokenizer.num_codes > 2**16:
        raise CodesError(
            f"the tokenizer has {tokenizer.num_codes} codes, expected at most 65536: a file has 16 bits a code."
        )
    for name in names:
        _check_name(name)
    metadata = {
        "format": FORMAT,
        "fingerprint": tokenizer.fingerprint,
        "latent_size": json.dumps(tokenizer.latent_size),
        "names": json.dumps(list(names)),
    }
    with replacing(path) as temporary:
        save_file({"codes": codes_BN.to(torch.uint16).contiguous()}, temporary, metadata=metadata)


def read_codes(path: str | os.PathLike[str]) -> CodesFile:
    """Read a file that ``write_codes`` wrote. Raises ``MissingFileError``, ``FileFormatError``."""
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no file of codes {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or list(file.keys()) != ["codes"]:
                raise FileFormatError(
                    f"{path} is a safetensors file but not one of codes: its format is {metadata.get('format')!r}, "
                    f"expected {FORMAT!r}."
                )
            codes_BN = file.get_tensor("codes")
        names, latent_size = json.loads(metadata["names"]), json.loads(metadata["latent_size"])
        fingerprint = metadata["fingerprint"]
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise FileFormatError(f"{path} is not a complete file of codes: {error}. Encode the pictures again.") from error
    if codes_BN.dtype != torch.uint16 or codes_BN.ndim != 2 or not _is_list(names, str, len(codes_BN)):
        raise FileFormatError(
            f"{path} holds {codes_BN.dtype} {list(codes_BN.shape)}, expected uint16 with one row per name."
        )
    if not _is_list(latent_size, int, 2):
        raise FileFormatError(f"{path}: the latent_size is {latent_size!r}, expected two integers.")
    for name in names:
        _check_name(name)
    return CodesFile(codes_BN.long(), tuple(names), (latent_size[0], latent_size[1]), fingerprint)


def picture_names(names: Sequence[str], suffix: str = ".png") -> list[str]:
    """Return a file name per picture: its name with another suffix, appended if two would be the same otherwise."""
    changed = [str(PurePosixPath(name).with_suffix(suffix)) for name in names]
    return [new if changed.count(new) == 1 else name + suffix for name, new in zip(names, changed, strict=True)]


def _is_list(value: object, kind: type, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(each) is kind for each in value)


def _check_name(name: str) -> None:
    # Names become files when codes are decoded, so they may not lead out of the folder that was asked for.
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\\" in name or PureWindowsPath(name).drive:
        raise FileFormatError(f"the name {name!r} is not a relative path inside a folder, such as 'cats/1.png'.")
