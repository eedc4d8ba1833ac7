"""``convert_checkpoint``: what may be in the folder that it writes, its progress, and formats of plugins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from chameleon_core import _builtins
from chameleon_core.checkpoints import Checkpoint, CheckpointFormatSpec, StoredTensor, read_checkpoint
from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.cli.app import app
from chameleon_core.config import ChameleonConfig
from chameleon_core.errors import BrokenPluginError, ConfigError, FileAccessError
from chameleon_core.hookspecs import HOOK_API_VERSION, hookimpl
from chameleon_core.registry import REGISTRY
from chameleon_core.testing import make_config, make_model
from chameleon_core.testing.meta_release import Release, make_ranks, write_release

# The heads of these models have norms of their own.
pytestmark = pytest.mark.filterwarnings("ignore::chameleon_core.InterchangeWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    make_model(make_config()).save_pretrained(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.load() for name, tensor in read_checkpoint(folder).tensors.items()}


def same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(each, right[name]) for name, each in left.items())


def another_model(folder: Path) -> None:
    make_model(make_config(), seed=7).save_pretrained(folder)


def larger_model(folder: Path) -> None:
    make_model(make_config(num_hidden_layers=3)).save_pretrained(folder)


def a_tokenizer(folder: Path) -> None:
    folder.mkdir()
    (folder / "generation_config.json").write_text('{"mine": true}')


def a_damaged_model(folder: Path) -> None:
    another_model(folder)
    (folder / "model.safetensors").write_bytes(b"half")


def a_folder_by_the_name_of_a_file(folder: Path) -> None:
    (folder / "config.json").mkdir(parents=True)


@pytest.mark.parametrize(
    "prepare", [another_model, larger_model, a_tokenizer, a_damaged_model], ids=lambda each: each.__name__
)
def test_nothing_that_is_there_is_replaced_unless_that_is_asked_for(prepare: Any, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    prepare(target)
    before = files_of(target)
    with pytest.raises(ConfigError, match=r"Convert to a folder that isn't there or is empty, or pass overwrite=True"):
        convert_checkpoint(source, target)
    assert files_of(target) == before
    convert_checkpoint(source, target, overwrite=True)
    assert same(tensors_of(target), tensors_of(source))


def test_a_model_in_another_format_is_never_replaced(source: Path, tmp_path: Path) -> None:
    write_release(tmp_path / "target", Release(), make_ranks(Release()))
    before = files_of(tmp_path / "target")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="has a model in the format meta, and a folder has one model"):
            convert_checkpoint(source, tmp_path / "target", overwrite=overwrite)
    assert files_of(tmp_path / "target") == before


@pytest.mark.parametrize("checkpoint_format", ["hf", "meta"])
def test_what_is_no_part_of_a_model_stays(checkpoint_format: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref")
    (tmp_path / "README.md").write_text("mine")
    convert_checkpoint(source, tmp_path, checkpoint_format=checkpoint_format)
    found = files_of(tmp_path)
    assert (found["README.md"], found[".git/HEAD"]) == (b"mine", b"ref")
    assert same(tensors_of(tmp_path), tensors_of(source))


@pytest.mark.parametrize("checkpoint_format", ["hf", "meta"])
def test_a_conversion_that_is_done_again_writes_the_same_bytes(
    checkpoint_format: str, source: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        convert_checkpoint(source, tmp_path / "target", checkpoint_format=checkpoint_format)
        convert_checkpoint(source, tmp_path / "other", checkpoint_format=checkpoint_format)
    assert files_of(tmp_path / "target") == files_of(tmp_path / "other")


def test_what_an_interrupted_conversion_of_another_source_left_is_cleared_away(source: Path, tmp_path: Path) -> None:
    left = tmp_path / ".chameleon-save.00000000.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half of another")
    convert_checkpoint(source, tmp_path)
    assert not left.exists()
    assert same(tensors_of(tmp_path), tensors_of(source))


def test_a_conversion_of_another_source_that_was_committed_is_a_model(source: Path, tmp_path: Path) -> None:
    another_model(tmp_path / "another")
    shutil.copytree(tmp_path / "another", tmp_path / "target" / ".chameleon-commit")
    with pytest.raises(ConfigError, match="pass overwrite=True"):
        convert_checkpoint(source, tmp_path / "target")
    assert same(tensors_of(tmp_path / "target"), tensors_of(tmp_path / "another"))


def test_a_file_is_no_folder_to_write(source: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    with pytest.raises(FileAccessError, match="target is a file, expected the name of a folder"):
        convert_checkpoint(source, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "mine"


def test_a_folder_by_the_name_of_a_file_is_never_replaced(source: Path, tmp_path: Path) -> None:
    a_folder_by_the_name_of_a_file(tmp_path / "target")
    with pytest.raises(ConfigError, match=r"would replace or remove: config\.json\."):
        convert_checkpoint(source, tmp_path / "target")
    with pytest.raises(FileAccessError):
        convert_checkpoint(source, tmp_path / "target", overwrite=True)
    assert (tmp_path / "target" / "config.json").is_dir()


def test_the_source_by_another_name_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(ConfigError, match="is the folder that is read"):
        convert_checkpoint(source, tmp_path / "link", overwrite=True)


def test_the_command_line_overwrites_where_it_is_told_to(source: Path, tmp_path: Path) -> None:
    another_model(tmp_path / "target")
    command = ["convert", str(source), str(tmp_path / "target")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    assert same(tensors_of(tmp_path / "target"), tensors_of(source))


class OneFile:
    """A format of a plugin: a JSON of the configuration, and a file of torch that is written in two passes."""

    loads: Any = 2

    def num_loads(self, checkpoint: Checkpoint) -> Any:
        return self.loads

    def read(self, folder: Path, /) -> Checkpoint:
        tensors = torch.load(folder / "acme.pt")
        config = ChameleonConfig.from_dict(json.loads((folder / "acme.json").read_text()))
        return Checkpoint(config, {name: StoredTensor.of(tensor) for name, tensor in tensors.items()})

    def write(self, checkpoint: Checkpoint, folder: Path, /, *, max_shard_size: int) -> None:
        assert all(tensor.load().isfinite().all() for tensor in checkpoint.tensors.values())
        torch.save({name: tensor.load().clone() for name, tensor in checkpoint.tensors.items()}, folder / "acme.pt")
        (folder / "acme.json").write_text(json.dumps(checkpoint.config.to_dict()))


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[OneFile]]:
    """The format "acme", as a plugin registers it."""
    made = type("Acme", (OneFile,), {})
    spec = CheckpointFormatSpec(
        name="acme",
        factory=lambda: made(),
        api_version=HOOK_API_VERSION,
        matches=lambda folder: (folder / "acme.json").is_file(),
        marks="acme.json",
    )
    hook = hookimpl(lambda self: [spec], specname="chameleon_core_checkpoint_formats")
    plugin = type("Plugin", (), {"chameleon_core_checkpoint_formats": hook})()
    monkeypatch.setenv("CHAMELEON_PLUGINS", "")
    monkeypatch.setattr(REGISTRY, "_builtins", (_builtins, plugin))
    REGISTRY.reload()
    yield made
    monkeypatch.undo()
    REGISTRY.reload()


@pytest.mark.parametrize("other", ["hf", "meta"])
@pytest.mark.usefixtures("acme")
def test_a_plugins_format_converts_both_ways(other: str, source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "first", checkpoint_format=other)
    assert convert_checkpoint(tmp_path / "first", tmp_path / "acme", checkpoint_format="acme").source_format == other
    assert convert_checkpoint(tmp_path / "acme", tmp_path / "back", checkpoint_format=other).source_format == "acme"
    for each in ("first", "acme", "back"):
        assert same(tensors_of(tmp_path / each), tensors_of(source))


@pytest.mark.parametrize("checkpoint_format", ["hf", "meta", "acme"])
@pytest.mark.usefixtures("acme")
def test_progress_is_shared_out_over_all_that_a_format_loads(
    checkpoint_format: str, source: Path, tmp_path: Path
) -> None:
    seen: list[float] = []
    options = {"ranks": 2} if checkpoint_format == "meta" else None
    convert_checkpoint(
        source,
        tmp_path / "target",
        checkpoint_format=checkpoint_format,
        target_options=options,
        progress=lambda done, total: seen.append(done / total),
    )
    num_tensors = len(read_checkpoint(source).tensors)
    assert len(seen) == num_tensors * (1 if checkpoint_format == "hf" else 2) + 1
    assert seen == sorted(seen)
    assert (seen[-2], seen[-1]) == (1.0, 1.0)
    assert seen.index(1.0) == len(seen) - 2


@pytest.mark.parametrize("loads", [0, -1, "two", True])
def test_a_plugins_number_that_is_none_names_the_plugin(
    loads: Any, acme: type[OneFile], source: Path, tmp_path: Path
) -> None:
    acme.loads = loads
    with pytest.raises(BrokenPluginError, match=r"checkpoint format 'acme'.*from num_loads; expected an int ≥ 1"):
        convert_checkpoint(source, tmp_path / "target", checkpoint_format="acme")
