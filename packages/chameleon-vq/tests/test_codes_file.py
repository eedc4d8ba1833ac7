"""Files of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chameleon_vq import (
    CodesError,
    FileAccessError,
    FileFormatError,
    ImageTokenizer,
    MissingFileError,
    read_codes,
    write_codes,
)
from chameleon_vq.codes_file import FORMAT, picture_names
from chameleon_vq.testing import make_image_tokenizer


@pytest.fixture
def codes_BN() -> torch.Tensor:
    return torch.randint(64, (3, 64), generator=torch.Generator().manual_seed(0))


def metadata(**fields: Any) -> dict[str, str]:
    return {"format": FORMAT, "fingerprint": "f", "latent_size": "[1, 2]", "names": '["a.png"]', **fields}


def test_what_was_written_is_read(tokenizer: ImageTokenizer, codes_BN: torch.Tensor, tmp_path: Path) -> None:
    names = ("a.png", "deep/ü.jpg", "c")
    write_codes(tmp_path / "codes", codes_BN, names=names, tokenizer=tokenizer)
    file = read_codes(tmp_path / "codes")
    assert torch.equal(file.codes_BN, codes_BN)
    assert file.codes_BN.dtype == torch.int64
    assert (file.names, file.latent_size, file.fingerprint) == (names, (8, 8), tokenizer.fingerprint)
    file.check_tokenizer(tokenizer)
    assert load_file(tmp_path / "codes")["codes"].dtype == torch.uint16


def test_the_largest_code_fits(tmp_path: Path) -> None:
    tokenizer = make_image_tokenizer(num_codes=2**16)
    codes_BN = torch.full((1, 64), 2**16 - 1)
    write_codes(tmp_path / "codes", codes_BN, names=["a"], tokenizer=tokenizer)
    assert torch.equal(read_codes(tmp_path / "codes").codes_BN, codes_BN)
    with pytest.raises(CodesError, match="65537 codes, expected at most 65536: a file has 16 bits"):
        write_codes(tmp_path / "codes", codes_BN, names=["a"], tokenizer=make_image_tokenizer(num_codes=2**16 + 1))


def test_another_tokenizer_s_codes_are_told(tokenizer: ImageTokenizer, codes_BN: torch.Tensor, tmp_path: Path) -> None:
    write_codes(tmp_path / "codes", codes_BN, names="abc", tokenizer=tokenizer)
    with pytest.raises(CodesError, match=r"made by the tokenizer .* this one is .* Decode them with the tokenizer"):
        read_codes(tmp_path / "codes").check_tokenizer(make_image_tokenizer(seed=1))


def test_codes_and_names_must_match(tokenizer: ImageTokenizer, codes_BN: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(CodesError, match=r"expected codes \[2, 64\], one row per name, got \[3, 64\]"):
        write_codes(tmp_path / "codes", codes_BN, names=["a", "b"], tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b", "", "..", "C:\\a.png"])
def test_a_name_can_not_lead_out_of_a_folder(tokenizer: ImageTokenizer, tmp_path: Path, name: str) -> None:
    with pytest.raises(FileFormatError, match="is not a relative path inside a folder"):
        write_codes(tmp_path / "codes", torch.zeros(1, 64, dtype=torch.int64), names=[name], tokenizer=tokenizer)
    one = torch.zeros(1, 2, dtype=torch.uint16)
    save_file({"codes": one}, tmp_path / "hostile", metadata=metadata(names=f'["{name}"]'.replace("\\", "\\\\")))
    with pytest.raises(FileFormatError, match="is not a relative path inside a folder"):
        read_codes(tmp_path / "hostile")


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        ({"codes": torch.zeros(1, 2)}, metadata(), "expected uint16 with one row per name"),
        ({"codes": torch.zeros(2, 2, dtype=torch.uint16)}, metadata(), "expected uint16 with one row per name"),
        ({"other": torch.zeros(1, 2)}, metadata(), "not one of codes"),
        ({"codes": torch.zeros(1, 2, dtype=torch.uint16)}, None, "its format is None, expected 'chameleon-vq-codes-1'"),
        ({"codes": torch.zeros(1, 2, dtype=torch.uint16)}, metadata(latent_size="[1]"), r"the latent_size is \[1\]"),
        ({"codes": torch.zeros(1, 2, dtype=torch.uint16)}, metadata(names="["), "the list of names is not valid JSON"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, tensors: Any, fields: Any, message: str) -> None:
    save_file(tensors, tmp_path / "codes", metadata=fields)
    with pytest.raises(FileFormatError, match=message):
        read_codes(tmp_path / "codes")


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file of codes .*nothing"):
        read_codes(tmp_path / "nothing")
    (tmp_path / "damaged").write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match="damaged is not a complete file of codes"):
        read_codes(tmp_path / "damaged")


def test_pictures_keep_their_names_and_never_share_one() -> None:
    assert picture_names(["a.jpg", "b/c.png", "d"]) == ["a.png", "b/c.png", "d.png"]
    assert picture_names(["a.jpg", "a.png"]) == ["a.jpg.png", "a.png.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.png", "a.jpg.png"],
        ["a.jpg.png", "a.jpg", "a.gif"],
        ["a", "a", "a"],
        ["./a", "a"],
        ["a", "a.png/b"],
        ["a.png/b/c", "a.png/b.jpg", "a", "a.png/b"],
    ],
)
def test_names_made_unique_are_unique_and_no_folders_of_others(names: list[str]) -> None:
    made = picture_names(names)
    assert len(set(made)) == len(names)
    folders = {parent.as_posix() for name in made for parent in Path(name).parents}
    assert not folders & set(made)


def test_twelve_thousand_equal_names_take_no_time() -> None:
    assert len(set(picture_names(["a"] * 12_000))) == 12_000


def test_names_too_many_for_the_header_are_kept(
    tokenizer: ImageTokenizer, tmp_path: Path, codes_BN: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chameleon_vq.codes_file._LONGEST_METADATA", 8)
    names = ("a.png", "ü.png", "b\udcff.png")
    write_codes(tmp_path / "codes", codes_BN, names=names, tokenizer=tokenizer)
    file = read_codes(tmp_path / "codes")
    assert (file.names, file.codes_BN.tolist()) == (names, codes_BN.tolist())
    one = {"codes": torch.zeros(1, 2, dtype=torch.uint16)}
    for names_tensor in (torch.zeros(3), torch.tensor([0xFF], dtype=torch.uint8), torch.zeros(1, dtype=torch.bool)):
        fields = metadata(format="chameleon-vq-codes-2")
        save_file({**one, "names": names_tensor}, tmp_path / "damaged", metadata=fields)
        with pytest.raises(FileFormatError):
            read_codes(tmp_path / "damaged")


@pytest.mark.parametrize(
    "fields",
    [
        {"names": "[" * 100_000},
        {"names": "1" * 5_000},
        {"names": '["a\\u0000.png"]'},
        {"latent_size": "[1e400, 2]"},
        {"latent_size": "[1, 99999999999999999999]"},
        {"latent_size": "[-1, 2]"},
        {"format": "chameleon-vq-codes-3"},
    ],
)
def test_header_fields_of_any_rubbish_are_refused(tmp_path: Path, fields: dict[str, str]) -> None:
    save_file({"codes": torch.zeros(1, 2, dtype=torch.uint16)}, tmp_path / "codes", metadata=metadata(**fields))
    with pytest.raises(FileFormatError):
        read_codes(tmp_path / "codes")


def test_codes_that_the_tokenizer_does_not_have_are_not_written(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    for code in (-1, 64):
        with pytest.raises(CodesError, match=r"expected 0…63"):
            write_codes(tmp_path / "codes", torch.full((1, 64), code), names=["a"], tokenizer=tokenizer)


def test_a_place_that_can_not_be_written_is_named(tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError, match=r"codes can't be written: .*\. Choose another path\."):
        write_codes(tmp_path / "file" / "codes", torch.zeros(1, 64).long(), names=["a"], tokenizer=tokenizer)
