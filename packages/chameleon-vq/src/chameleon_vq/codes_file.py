"""Files of codes: those of many pictures as safetensors, uint16, with the names and the tokenizer's fingerprint.

Shapes: B pictures, N codes per picture.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._files import parse_json, reading, replacing
from .errors import ChameleonVQError, CodesError, FileFormatError, MissingFileError
from .file_access import writing
from .picture_files import is_kind
from .tokenizer import ImageTokenizer

FORMAT = "chameleon-vq-codes-1"
FORMAT_OF_MANY = "chameleon-vq-codes-2"
"""The format of files whose names are too many for the header: they are a tensor, the bytes of the same JSON."""

_TENSORS = {FORMAT: ["codes"], FORMAT_OF_MANY: ["codes", "names"]}
_LONGEST_METADATA = 2**24  # characters; safetensors refuses headers of more than 100 MB


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
    if codes_BN.numel() and not 0 <= int(codes_BN.min()) <= int(codes_BN.max()) < tokenizer.num_codes:
        raise CodesError(
            f"got codes {int(codes_BN.min())}…{int(codes_BN.max())}, expected 0…{tokenizer.num_codes - 1}."
        )
    for name in names:
        check_name(name)
    written_names = json.dumps(list(names))
    tensors = {"codes": codes_BN.to(torch.uint16).contiguous()}
    metadata = {
        "format": FORMAT,
        "fingerprint": tokenizer.fingerprint,
        "latent_size": json.dumps(tokenizer.latent_size),
    }
    if len(written_names) <= _LONGEST_METADATA:
        metadata["names"] = written_names
    else:
        metadata["format"] = FORMAT_OF_MANY
        tensors["names"] = torch.frombuffer(bytearray(written_names, "ascii"), dtype=torch.uint8)
    with writing(path), replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_codes(path: str | os.PathLike[str]) -> CodesFile:
    """Read a file that ``write_codes`` wrote. Raises ``MissingFileError``, ``FileFormatError``."""
    path = Path(path)
    if not is_kind(path, "file"):
        raise MissingFileError(f"there is no file of codes {path}.")
    try:
        with reading(path), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if sorted(file.keys()) != _TENSORS.get(metadata.get("format", "")):
                raise FileFormatError(
                    f"{path} is a safetensors file but not one of codes: its format is {metadata.get('format')!r}, "
                    f"expected {FORMAT!r} with the tensor codes."
                )
            codes_BN = file.get_tensor("codes")
            written_names = (
                metadata["names"]
                if metadata["format"] == FORMAT
                else file.get_tensor("names").to(torch.uint8).numpy().tobytes()
            )
        names = parse_json(written_names, f"{path}: the list of names", surrogates=True)
        latent_size = parse_json(metadata["latent_size"], f"{path}: the latent_size")
        fingerprint = metadata["fingerprint"]
    except ChameleonVQError:
        raise
    # A file may have any dtype.
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise FileFormatError(f"{path} is not a complete file of codes: {error}. Encode the pictures again.") from error
    if codes_BN.dtype != torch.uint16 or codes_BN.ndim != 2 or not _is_list(names, str, len(codes_BN)):
        raise FileFormatError(
            f"{path} holds {codes_BN.dtype} {list(codes_BN.shape)}, expected uint16 with one row per name."
        )
    if not _is_list(latent_size, int, 2) or not all(1 <= side <= max(1, codes_BN.shape[1]) for side in latent_size):
        raise FileFormatError(
            f"{path}: the latent_size is {str(latent_size)[:80]}, expected two integers, the height and width of a "
            f"grid of {codes_BN.shape[1]} codes."
        )
    for name in names:
        check_name(name)
    return CodesFile(codes_BN.long(), tuple(names), (latent_size[0], latent_size[1]), fingerprint)


def picture_names(names: Sequence[str], suffix: str = ".png") -> list[str]:
    """Return a file name per picture, all different: its name with another suffix, or with the suffix appended.

    The suffix is appended if two names would be the same otherwise; what is then still the same, or would be the
    folder of another, gets a number.
    """
    paths = [PurePosixPath(name) for name in names]
    changed = [str(path.with_suffix(suffix)) for path in paths]
    count = Counter(changed)
    folders = {str(folder) for path in paths for folder in path.parents}
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    result = []
    for path, new in zip(paths, changed, strict=True):
        chosen = new if count[new] == 1 else f"{path}{suffix}"
        stem = chosen.removesuffix(suffix)
        while chosen in taken or chosen in folders:
            numbers[stem] += 1
            chosen = f"{stem}-{numbers[stem] + 1}{suffix}"
        taken.add(chosen)
        result.append(chosen)
    return result


def _is_list(value: object, kind: type, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(each) is kind for each in value)


def check_name(name: str) -> None:
    """Raise ``FileFormatError`` if a name isn't a relative path.

    Names become files when codes are decoded, so they may not lead out of the folder that was asked for.
    """
    path = PurePosixPath(name)
    drive = PureWindowsPath(name).drive if ":" in name else ""
    if not path.name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or drive:
        raise FileFormatError(
            f"the name {name!r:.120} is not a relative path inside a folder, such as 'cats/1.png', without '\\\\'."
        )
