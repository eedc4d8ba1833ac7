"""The command line, run in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

import chameleon_vq
from chameleon_vq import ImageTokenizer, cli, read_codes
from chameleon_vq.testing import make_image_tokenizer

testing = pytest.importorskip("typer.testing")
console = pytest.importorskip("rich.console")
app = pytest.importorskip("chameleon_vq.cli.app").app

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: ImageTokenizer, picture: PIL.Image.Image) -> Run:
    """Runs a command in a folder with two pictures in ``photos`` and the tokenizer in ``tok``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    picture.save("photos/a.png")
    picture.rotate(180).save("photos/more/b.jpg")
    tokenizer.save_pretrained("tok")

    def run(*arguments: str) -> Any:
        # The consoles hold the streams that they were made with; the runner swaps them.
        from chameleon_vq.cli import app as module

        monkeypatch.setattr(module, "out", console.Console(width=300))
        monkeypatch.setattr(module, "err", console.Console(stderr=True, width=300))
        return testing.CliRunner().invoke(app, arguments)

    return run


def test_pictures_to_codes_to_pictures(run: Run, tokenizer: ImageTokenizer) -> None:
    result = run("encode", "photos", "-t", "tok", "-o", "out/codes.safetensors")
    assert result.exit_code == 0, result.output
    assert "2 pictures, 8×8 codes each → out/codes.safetensors" in result.stdout
    assert "encoding" in result.stderr
    assert "2/2" in result.stderr
    file = read_codes("out/codes.safetensors")
    assert file.names == ("a.png", "more/b.jpg")
    assert file.codes_BN.tolist() == tokenizer.encode(["photos/a.png", "photos/more/b.jpg"]).tolist()

    result = run("decode", "out/codes.safetensors", "--tokenizer", "tok", "--output", "back", "--batch-size", "1")
    assert result.exit_code == 0, result.output
    assert "2 pictures → back" in result.stdout
    expected = tokenizer.decode(file.codes_BN)
    for name, image in zip(("a.png", "more/b.png"), expected, strict=True):
        with PIL.Image.open(Path("back") / name) as written:
            assert written.tobytes() == image.tobytes()


def test_several_codes_per_position_go_through_the_file_too(run: Run) -> None:
    options = {"num_quantizers": 3}
    tokenizer = make_image_tokenizer(num_codes=32, quantizer="residual", quantizer_options=options)
    tokenizer.save_pretrained("residual")
    result = run("encode", "photos", "-t", "residual", "-o", "codes")
    assert "2 pictures, 8×8×3 codes each → codes" in result.stdout
    codes_BN = read_codes("codes").codes_BN
    assert torch.equal(codes_BN, tokenizer.encode(["photos/a.png", "photos/more/b.jpg"]))
    assert codes_BN.shape == (2, 8 * 8 * 3)
    assert run("decode", "codes", "-t", "residual", "-o", "back").exit_code == 0
    with PIL.Image.open("back/a.png") as written:
        assert written.tobytes() == tokenizer.decode(codes_BN)[0].tobytes()


def test_pictures_beside_their_reconstructions(run: Run) -> None:
    result = run("reconstruct", "photos", "-t", "tok", "-o", "sheets")
    assert result.exit_code == 0, result.output
    for text in ("a.png", "more/b.jpg", "PSNR, dB", "mean", "2 pictures → sheets"):
        assert text in result.stdout
    with PIL.Image.open("sheets/more/b.png") as sheet:
        assert sheet.size == (32 + 8 + 32, 32 + 20)


def test_a_broken_picture_is_named_and_the_others_are_encoded(run: Run) -> None:
    Path("photos/broken.png").write_bytes(b"broken")
    for command in (("encode",), ("reconstruct", "-o", "sheets")):
        result = run(*command, "photos", "-t", "tok")
        assert result.exit_code == 1
        assert "left out: photos/broken.png is not a picture" in result.stderr
        assert "2 pictures" in result.stdout
    assert read_codes("codes.safetensors").names == ("a.png", "more/b.jpg")


def test_codes_of_another_tokenizer_are_refused(run: Run) -> None:
    make_image_tokenizer(seed=1).save_pretrained("other")
    assert run("encode", "photos/a.png", "-t", "tok").exit_code == 0
    result = run("decode", "codes.safetensors", "-t", "other")
    assert result.exit_code == 1
    assert "error: these codes were made by the tokenizer" in result.stderr
    assert not Path("pictures").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode", "photos", "-t", "nothing"), "error: no image tokenizer named 'nothing'. Installed: none."),
        (("encode", "photos", "-t", "tok", "--device", "toaster"), "error: the device 'toaster' can't be used here"),
        (("reconstruct", "nothing.png", "-t", "tok"), "left out: there is no picture file nothing.png."),
        (("encode", "photos", "-t", "./no/thing"), "error: there is no folder ./no/thing."),
        (("encode", "tok", "-t", "tok"), "error: there are no pictures in tok; expected files named *.apng"),
        (("encode", "photos/a.png", "photos/a.png", "photos/more/../a.png", "-t", "tok"), "have the name 'a.png'"),
        (("encode", "nothing.png", "-t", "tok"), "left out: there is no picture file nothing.png."),
        (("decode", "nothing", "-t", "tok"), "error: there is no file of codes nothing."),
        (("decode", "photos/a.png", "-t", "tok"), "error: photos/a.png is not a complete file of codes"),
    ],
)
def test_an_error_is_a_sentence_and_an_exit_code(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_pictures_of_different_grids_do_not_fit_into_one_file(run: Run, tokenizer: ImageTokenizer) -> None:
    tokenizer.image_processor.replace(do_resize=False, do_center_crop=False).save_pretrained("tok")
    for width, height in ((8, 8), (16, 8)):
        PIL.Image.new("RGB", (width, height)).save(f"{width}.png")
    PIL.Image.new("RGB", (32, 32)).save("32.png")
    result = run("encode", "8.png", "16.png", "32.png", "-t", "tok")
    assert result.exit_code == 1
    assert "left out: 8.png has 4 codes, expected 64: pictures of grids of different sizes" in result.stderr
    assert read_codes("codes.safetensors").names == ("32.png",)


def test_what_can_not_be_written_is_said_before_anything_is_encoded(run: Run) -> None:
    Path("photos/back\\slash.png").write_bytes(Path("photos/a.png").read_bytes())
    Path("photos/._a.png").write_bytes(b"\0\5\x16\7\0\2")
    result = run("encode", "photos", "-t", "tok")
    assert result.exit_code == 1
    assert "left out: the name 'back\\\\slash.png' is not a relative path" in result.stderr
    assert "not a picture: photos/._a.png (metadata of macOS, not a picture)" in result.stderr
    assert read_codes("codes.safetensors").names == ("a.png", "more/b.jpg")
    Path("folder").mkdir()
    result = run("encode", "photos", "-t", "nothing", "-o", "folder")
    assert result.exit_code == 1
    assert "error: folder can't be written: there is a folder of that name." in result.stderr
    result = run("encode", "photos", "-t", "nothing", "-o", "photos/a.png/codes")
    assert "error: photos/a.png/codes can't be written" in result.stderr


def test_what_was_encoded_before_an_interruption_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ImageTokenizer, paths: Any, **options: Any) -> Any:
        yield from list(encode_files(self, paths, **options))[:1]
        raise KeyboardInterrupt

    encode_files = ImageTokenizer.encode_files
    monkeypatch.setattr(ImageTokenizer, "encode_files", interrupted)
    result = run("encode", "photos", "-t", "tok")
    assert result.exit_code == 130
    assert "stopped: the other pictures were not encoded" in result.stderr
    assert read_codes("codes.safetensors").names == ("a.png",)


def test_names_reach_the_terminal_without_control_characters(run: Run) -> None:
    Path("photos/\x1b[31m\u202egnp.png").write_bytes(b"broken")
    result = run("encode", "photos", "-t", "tok")
    assert "\x1b[31m" not in result.stderr
    assert "\u202e" not in result.stderr
    assert "photos/\ufffd[31m\ufffdgnp.png is not a picture" in result.stderr


def test_bfloat16_codes_decode_with_the_same_tokenizer_in_float32(run: Run) -> None:
    assert run("encode", "photos", "-t", "tok", "--dtype", "bfloat16").exit_code == 0
    assert run("decode", "codes.safetensors", "-t", "tok").exit_code == 0


def test_the_codes_that_a_dtype_changes_are_counted(run: Run) -> None:
    Path("photos/broken.png").write_bytes(b"broken")
    result = run("compare", "photos", "-t", "tok", "--dtype", "float32")
    assert "float32 changes 0 of 128 codes (0.00%)." in result.stdout
    assert result.exit_code == 1
    assert "left out: photos/broken.png" in result.stderr
    result = run("compare", "photos/a.png", "-t", "tok")
    [row] = [line for line in result.stdout.splitlines() if "a.png" in line]
    assert result.exit_code == 0, result.output
    assert "64" in row
    assert "bfloat16 changes " in result.stdout


def test_without_the_command_s_packages_the_install_line_is_named() -> None:
    code = "import sys; sys.modules['typer'] = None; from chameleon_vq.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "needs the package 'typer'" in result.stderr
    assert cli.INSTALL in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_runs_as_a_module_and_prints_its_version() -> None:
    command = [sys.executable, "-m", "chameleon_vq", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"chameleon-vq {chameleon_vq.__version__}\n"


def test_a_misspelt_option_or_command_is_refused_with_the_closest_name(run: Run) -> None:
    result = run("encode", "photos", "--tokeniser", "tok")
    assert result.exit_code == 2
    assert "No such option: --tokeniser. Did you mean '--tokenizer'?" in result.stderr
    result = run("reconstrukt", "photos")
    assert result.exit_code == 2
    assert "No such command 'reconstrukt'. Did you mean 'reconstruct'?" in result.stderr


def test_the_shell_completes_commands_and_options() -> None:
    code = "import sys; sys.argv = ['chameleon-vq']; from chameleon_vq.cli import main; main()"
    for words, place, expected in (
        ("chameleon-vq enc", "1", "encode"),
        ("chameleon-vq encode --tok", "2", "--tokenizer"),
    ):
        completing = {"_CHAMELEON_VQ_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **completing}
        )
        assert result.stdout.split() == [expected]
