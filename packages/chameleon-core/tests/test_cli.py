"""The command line where no sibling package is installed: prompts, errors, the list of plugins, files."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import chameleon_core
from chameleon_core import save_document
from chameleon_core.cli.app import app
from chameleon_core.cli.output import Writer
from chameleon_core.cli.prompt import PromptCommand, Texts, Words, read_prompt
from chameleon_core.pipeline import Event, Finished, ImageFinished, ImageProgress, ImageStarted, TextDelta


@dataclasses.dataclass(frozen=True)
class Text:
    text: str


@dataclasses.dataclass(frozen=True)
class Image:
    image: Any = None
    codes: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Special:
    name: str


@dataclasses.dataclass(frozen=True)
class Notes:
    notes: tuple[int, ...]


class Picture:
    def save(self, path: Path, **options: str) -> None:
        path.write_text(options["format"])


@pytest.fixture
def without_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chameleon_vq", "chameleon_text"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def chameleon_text(monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(
        Text=Text,
        Image=Image,
        Special=Special,
        document_to_json=lambda document: json.dumps([dataclasses.asdict(part) for part in document]),
    )
    monkeypatch.setitem(sys.modules, "chameleon_text", package)  # type: ignore[arg-type]


def run(*arguments: str, columns: int = 100) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})


# Prompts.


def parts(*arguments: str) -> list[str | Path] | str:
    """What a command reads of its prompt, or the error."""
    read: list[list[str | Path]] = []
    command = typer.Typer(add_completion=False)

    @command.command(cls=PromptCommand)
    def show(ctx: typer.Context, words: Words = None, text: Texts = None, image: Any = None) -> None:
        read.append(read_prompt(ctx, words, text, image))

    # Typer reads annotations when it builds the command, so the option is the one that the real commands have.
    show.__annotations__["image"] = importlib.import_module("chameleon_core.cli.prompt").Images
    result = CliRunner().invoke(command, list(arguments))
    return read[0] if result.exit_code == 0 else result.stderr


def test_texts_and_pictures_keep_the_order_in_which_they_were_given(tmp_path: Path) -> None:
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    first.touch()
    second.touch()
    given = ["--image", str(first), "--text", "a", "--text", "b", "--image", str(second), "--text", "c"]
    assert parts(*given) == [first, "a", "b", second, "c"]


def test_an_argument_that_names_a_picture_file_is_the_picture(tmp_path: Path) -> None:
    picture, other = tmp_path / "photo.jpg", tmp_path / "notes.txt"
    picture.touch()
    other.touch()
    assert parts("What is this?", str(picture), str(other)) == ["What is this?", picture, str(other)]


def test_a_picture_file_that_is_not_there_is_not_taken_for_text() -> None:
    assert "no picture file 'missing.jpg'" in parts("missing.jpg")
    assert parts("Describe missing.jpg") == ["Describe missing.jpg"]
    assert parts("--text", "missing.jpg") == ["missing.jpg"]


def test_the_two_ways_to_give_a_prompt_are_not_mixed() -> None:
    assert "either as plain arguments or with --text" in parts("a", "--text", "b")


# Errors.


def test_an_unknown_model_is_one_line_on_stderr() -> None:
    result = run("generate", "nowhere", "Hello")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: can't find the model 'nowhere'")
    assert result.stderr.count("\n") == 1


def test_debug_shows_where_an_error_came_from() -> None:
    result = run("--debug", "generate", "nowhere", "Hello")
    assert isinstance(result.exception, FileNotFoundError)


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chameleon_core.cli.plugins.PACKAGES", [None])
    assert isinstance(run("plugins").exception, AttributeError)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "folder", "Hello", "--modality", "image"], "--output"),
        (["generate", "folder", "Hello", "--modality", "sound"], "interleaved"),
        (["generate", "folder", "--image", "missing.png"], "missing.png"),
        (["generate", "folder", "Hello", "--device", "toaster"], "toaster"),
        (["generate", "folder", "Hello", "--logits-processor", '{"name": '], "--logits-processor must be a name, or"),
        (["generate", "folder", "Hello", "--decoding", '{"name": '], "--decoding must be a name, or"),
        (["generat"], "generate"),
        (["generate", "folder", "Hello", "--tempreature", "1"], "Did you mean '--temperature'?"),
        (["tokenize", "folder", "--document", "missing.json"], "missing.json"),
    ],
)
def test_wrong_usage_has_exit_code_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_flags_of_generate_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def stream(prompt: Any, **options: Any) -> Any:
        given.update(options)
        raise KeyError("enough")

    model = SimpleNamespace(get_memory_footprint=lambda: 0)
    monkeypatch.setattr(
        "chameleon_core.Chameleon.from_pretrained", lambda *args, **options: SimpleNamespace(stream=stream, model=model)
    )
    flags = (
        "--typical-p 0.9 --image-typical-p 0.8 --no-repeat-ngram-size 3 --forbid-id 5 --forbid-id 6 --min-new-tokens 2"
    )
    processors = ["--logits-processor", "acme", "--logits-processor", '{"name": "top-k", "k": 5}']
    decoding = ["--decoding", '{"name": "beam", "num_beams": 8}']
    assert isinstance(run("generate", "folder", "Hello", *flags.split(), *processors, *decoding).exception, KeyError)
    assert given["decoding"] == {"name": "beam", "num_beams": 8}
    expected = {
        "do_sample": True,
        "typical_p": 0.9,
        "image_typical_p": 0.8,
        "no_repeat_ngram_size": 3,
        "forbidden_ids": (5, 6),
        "min_new_tokens": 2,
        "logits_processors": ("acme", {"name": "top-k", "k": 5}),
    }
    assert {name: value for name, value in given.items() if name in expected} == expected


@pytest.mark.parametrize(
    "arguments", [["tokenize", "{folder}", "Hello"], ["detokenize", "{folder}", "{folder}/ids.json"], ["demo"]]
)
@pytest.mark.usefixtures("without_siblings")
def test_a_missing_sibling_is_named_with_its_install_line(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("[1]")
    result = run(*(argument.format(folder=tmp_path) for argument in arguments))
    assert result.exit_code == 1
    assert "pip install ./packages/chameleon-text" in result.stderr


@pytest.mark.parametrize("content", ["[1, 2", "{}", "[1.5]", "[true]", '["1"]'])
def test_a_file_without_ids_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text(content)
    result = run("detokenize", str(tmp_path), str(path))
    assert result.exit_code == 1
    assert f"{path} is not" in result.stderr
    assert "Expected ids" in result.stderr


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_its_libraries_the_command_names_the_extra(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from chameleon_core.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "chameleon-core[cli]" in done.stderr
    assert "Traceback" not in done.stderr


# The command itself.


def test_the_version_is_the_package_s() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"chameleon-core {chameleon_core.__version__}\n")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "chameleon_core", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"chameleon-core {chameleon_core.__version__}\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("chameleon gen", "generate"),
        ("chameleon generate --temp", "--temperature"),
        ("chameleon generate folder --modality inter", "interleaved"),
        ("chameleon doctor --device cpu --dt", "--dtype"),
    ],
)
def test_a_shell_completes_commands_options_and_values_without_torch(words: str, expected: str) -> None:
    code = (
        "import sys; from chameleon_core.cli import main; sys.argv[0] = 'chameleon'\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    count = len(words.split()) - 1
    asked = {"_CHAMELEON_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    assert expected in done.stdout.split(), done.stderr


# The list of plugins.


@pytest.mark.usefixtures("without_siblings")
def test_plugins_are_listed_without_the_siblings() -> None:
    result = run("plugins")
    assert result.exit_code == 0
    assert "sdpa" in result.stdout
    assert "chameleon_core_checkpoint_formats" in result.stdout
    assert "python -m pip install ./packages/chameleon-vq" in result.stdout


@pytest.mark.usefixtures("without_siblings")
def test_the_list_as_json_has_a_status_for_everything() -> None:
    listed = json.loads(run("plugins", "--json").stdout)
    status = {(each["package"], each["name"]): each["status"] for each in listed}
    assert status["chameleon-vq", None] == "not installed"
    assert status["chameleon-backends", "sdpa"] == "ready"
    assert status["chameleon-core", "hf"] == "ready"
    (hf,) = (each for each in listed if each["name"] == "hf")
    assert hf["hook"] == "chameleon_core_checkpoint_formats"
    assert hf["distribution"] == "chameleon-core"


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution with a plugin that can't run here and one that can't be imported."""
    info = tmp_path / "acme-0.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 0.2\n")
    (info / "entry_points.txt").write_text("[chameleon_backends]\nbroken = acme_broken\nslow = acme_slow\n")
    (tmp_path / "acme_broken.py").write_text("raise RuntimeError('no [kernel] library')\n")
    (tmp_path / "acme_slow.py").write_text(
        "from chameleon_backends import AttentionBackendSpec, hookimpl\n"
        "@hookimpl\n"
        "def chameleon_attention_backends():\n"
        "    return [AttentionBackendSpec(name='slow', factory=dict, api_version=2, unavailable=lambda: 'no GPU')]\n"
    )
    registry = importlib.import_module("chameleon_backends.registry").REGISTRY
    monkeypatch.syspath_prepend(tmp_path)
    registry.reload()
    yield
    monkeypatch.undo()
    registry.reload()


@pytest.mark.usefixtures("acme", "without_siblings")
def test_plugins_that_can_not_be_used_are_listed_with_the_reason() -> None:
    result = run("plugins")
    assert result.exit_code == 0
    assert "acme 0.2, can't run here: no GPU" in result.stdout
    assert "acme 0.2: RuntimeError: no [kernel] library" in result.stdout
    status = {each["name"]: each for each in json.loads(run("plugins", "--json").stdout)}
    assert status["slow"]["status"] == "can't run here"
    assert status["broken"]["status"] == "quarantined"
    assert status["broken"]["version"] == "0.2"


@pytest.mark.usefixtures("without_siblings")
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_list_keeps_within_the_screen(columns: int) -> None:
    lines = run("plugins", columns=columns).stdout.splitlines()
    # A hook's name is one word, and as long as it is.
    assert all(len(line) <= columns for line in lines if "chameleon_" not in line)


@pytest.mark.usefixtures("acme")
@pytest.mark.filterwarnings("default")
def test_a_broken_plugin_is_one_line_of_a_command_that_continues() -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert result.stderr == "warning: plugin 'broken' of acme 0.2 is not used: RuntimeError: no [kernel] library\n"


# What is written.


@pytest.mark.usefixtures("chameleon_text")
def test_text_goes_to_stdout_and_pictures_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = Picture()
    events: list[Event] = [
        TextDelta(0, "A pic"),
        TextDelta(0, "ture:"),
        ImageStarted(0, 2),
        ImageProgress(0, 1, 2, None),
        ImageProgress(0, 2, 2, None),
        ImageFinished(0, picture, (1, 2)),  # type: ignore[arg-type]
        Finished(0, "stop", []),
    ]
    writer = Writer(tmp_path)
    assert writer.follow(events) == events[-1]
    writer.end()
    assert capsys.readouterr().out == f"A picture:\n![picture 1]({tmp_path / 'picture-1.png'})\n"


@pytest.mark.usefixtures("chameleon_text")
def test_a_segment_of_a_plugin_s_modality_is_shown_by_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    Writer(None).write([Text("Sing "), Notes((60, 64)), Text("!")])  # type: ignore[arg-type]
    assert capsys.readouterr().out == 'Sing [{"notes": [60, 64]}]!'


def test_a_picture_that_was_cut_off_is_named_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    events: list[Event] = [ImageStarted(0, 2), ImageProgress(0, 1, 2, None), Finished(0, "cancelled", [])]
    Writer(tmp_path).follow(events)
    assert capsys.readouterr().out == f"![picture 1]({tmp_path / 'picture-1.png'})\n"


def test_control_characters_do_not_reach_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = [TextDelta(0, "\x1b[31mré\u3000d\t\x9b\n"), Finished(0, "stop", [])]
    Writer(None).follow(events)
    assert capsys.readouterr().out == "\x1b[31mré\u3000d\t\x9b\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    Writer(None).follow(events)
    assert capsys.readouterr().out == "\ufffd[31mré\u3000d\t\ufffd\n"


@pytest.mark.usefixtures("chameleon_text")
def test_a_saved_document_has_its_text_its_pictures_and_their_codes(tmp_path: Path) -> None:
    document: list[Any] = [Text("One: "), Image(Picture(), (1, 2)), Text("two: "), Image(None, (3,))]
    save_document(document, tmp_path)
    assert (tmp_path / "picture-1.png").read_text() == "PNG"
    assert {path.name for path in tmp_path.iterdir()} == {"document.json", "document.md", "picture-1.png"}
    expected = "One: \n\n![picture 1](picture-1.png)\n\ntwo: \n\n[picture 2, of 1 codes]\n"
    assert (tmp_path / "document.md").read_text() == expected
    assert json.loads((tmp_path / "document.json").read_text()) == [
        {"text": "One: "},
        {"image": "picture-1.png", "codes": [1, 2], "grid": None},
        {"text": "two: "},
        {"image": None, "codes": [3], "grid": None},
    ]
