"""The errors of this package, each derived from the built-in exception that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

Shape = tuple[int, ...]

MOST_LISTED = 10
"""Tensors of a kind, or pictures, that an error lists."""


class ChameleonVQError(Exception):
    """The base of every error of this package."""


class ConfigError(ChameleonVQError, ValueError):
    """A configuration has an unknown field, a value out of range, or fields that contradict each other."""


class FileFormatError(ChameleonVQError, ValueError):
    """A file has an unexpected format, or is damaged."""


class MissingFileError(ChameleonVQError, FileNotFoundError):
    """A file or folder doesn't exist."""


class FileAccessError(ChameleonVQError, OSError):
    """A file or folder can't be read or written: no permission, no space, or a folder in place of a file."""


class ImageError(ChameleonVQError, ValueError):
    """A picture can't be read, or has an unsuitable size or mode."""


class ImageWarning(UserWarning):
    """A picture was read without something beside its pixels, or files of a folder were left out."""


class InterchangeWarning(UserWarning):
    """What is saved is read by ``transformers`` without an error, and means something else there."""


class CodesError(ChameleonVQError, ValueError):
    """Codes have the wrong shape, dtype or range, or belong to another tokenizer."""


class MissingDecoderError(ChameleonVQError, RuntimeError):
    """The weights have no decoder, so they can only encode."""


class MissingPackageError(ChameleonVQError, ImportError):
    """An optional package isn't installed; the message names the install line."""


class WorkerError(ChameleonVQError, RuntimeError):
    """Processes that shared some work ended without doing it."""


class UnknownPluginError(ChameleonVQError, ValueError):
    """No plugin has that name."""


class BrokenPluginError(ChameleonVQError, ImportError):
    """The plugin of that name is installed but can't be used."""


class UnknownAttributeError(ChameleonVQError, AttributeError):
    """An object hasn't the attribute, though ``transformers`` has it; the message says what to use."""


class WeightsError(ChameleonVQError, ValueError):
    """Weights don't fit the model or aren't finite. The message lists the first tensors at fault and their number.

    ``missing``, ``unexpected`` and ``not_finite`` have the names of all of them; ``mis_shaped`` maps a name to the
    shape found and the shape expected, ``mis_typed`` to the dtypes.
    """

    def __init__(
        self,
        source: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        mis_shaped: Mapping[str, tuple[Shape, Shape]] | None = None,
        mis_typed: Mapping[str, tuple[str, str]] | None = None,
        not_finite: Sequence[str] = (),
        advice: str,
    ) -> None:
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.mis_shaped = dict(mis_shaped or {})
        self.mis_typed = dict(mis_typed or {})
        self.not_finite = tuple(not_finite)
        fault = "hold NaN or infinity" if not_finite else "don't fit the configuration"
        lines = [f"the weights in {source} {fault}."]
        if self.missing:
            lines.append(f"  missing ({len(self.missing)}): {_listed(self.missing)}")
        if self.unexpected:
            lines.append(f"  unexpected ({len(self.unexpected)}): {_listed(self.unexpected)}")
        for name, (found, expected) in islice(self.mis_shaped.items(), MOST_LISTED):
            lines.append(f"  shape: {name} is {list(found)}, expected {list(expected)}")
        for name, (found_type, expected_type) in islice(self.mis_typed.items(), MOST_LISTED):
            lines.append(f"  dtype: {name} is {found_type}, expected {expected_type}")
        for kind, faults in (("shape", self.mis_shaped), ("dtype", self.mis_typed)):
            if len(faults) > MOST_LISTED:
                lines.append(f"  {kind}: {len(faults) - MOST_LISTED:,} more")
        if self.not_finite:
            lines.append(f"  not finite ({len(self.not_finite)}): {_listed(self.not_finite)}")
        lines.append(f"  {advice}")
        super().__init__("\n".join(lines))


def unread_pictures(failures: Sequence[ChameleonVQError]) -> ImageError:
    """Return the error for several pictures that can't be read; it names the first of them."""
    lines = [f"{len(failures)} pictures can't be read; the others were encoded."]
    lines += [f"  {error}" for error in failures[:MOST_LISTED]]
    if len(failures) > MOST_LISTED:
        lines.append(f"  and {len(failures) - MOST_LISTED} more")
    return ImageError("\n".join(lines))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
