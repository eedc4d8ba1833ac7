"""The two hooks of this package, with a third-party plugin: a checkpoint format and a named model."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chameleon_backends import PluginWarning
from chameleon_core.checkpoints import Checkpoint, StoredTensor, read_checkpoint, resolve_folder, write_checkpoint
from chameleon_core.config import ChameleonConfig
from chameleon_core.errors import BrokenPluginError, UnknownPluginError
from chameleon_core.registry import CHECKPOINT_FORMATS_HOOK, PRETRAINED_HOOK, REGISTRY

PLUGIN = """
    from pathlib import Path

    from chameleon_backends.plugins import PluginSpec
    from chameleon_core.checkpoints import Checkpoint, CheckpointFormatSpec
    from chameleon_core.config import ChameleonConfig
    from chameleon_core.hookspecs import HOOK_API_VERSION, hookimpl


    class OneFile:
        def write(self, checkpoint, folder, *, max_shard_size):
            folder.mkdir(parents=True, exist_ok=True)
            lines = [f"{name} {stored.load().tolist()} {max_shard_size}" for name, stored in checkpoint.tensors.items()]
            (folder / "acme.txt").write_text("\\n".join(lines))

        def read(self, folder):
            return Checkpoint(ChameleonConfig(), {})


    @hookimpl
    def chameleon_core_checkpoint_formats():
        yield CheckpointFormatSpec(
            name="acme",
            factory=OneFile,
            api_version=HOOK_API_VERSION,
            matches=lambda folder: (folder / "acme.txt").is_file(),
            marks="acme.txt",
        )


    @hookimpl
    def chameleon_core_pretrained():
        yield PluginSpec(name="acme-small", factory=lambda: Path(__file__).parent, api_version=HOOK_API_VERSION)
"""

BROKEN = """
    raise RuntimeError("the weights of acme-large are missing")
"""


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution acme-chameleon and its plugin, and a registry that finds it and forgets it again."""
    monkeypatch.delenv("CHAMELEON_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    metadata = tmp_path / "acme_chameleon-0.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-chameleon\nVersion: 0.2\n")
    (metadata / "entry_points.txt").write_text("[chameleon_core]\nacme = acme_chameleon\n")
    (tmp_path / "acme_chameleon.py").write_text(textwrap.dedent(PLUGIN))
    importlib.invalidate_caches()
    REGISTRY.reload()
    yield
    sys.modules.pop("acme_chameleon", None)
    monkeypatch.undo()
    REGISTRY.reload()


def test_a_third_party_format_is_read_and_written_like_a_built_in(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    checkpoint = Checkpoint(ChameleonConfig(), {"model.norm.weight": StoredTensor.of(torch.tensor([1.0, 2.0]))})
    write_checkpoint(checkpoint, folder, checkpoint_format="acme", max_shard_size="1KB")
    assert (folder / "acme.txt").read_text() == "model.norm.weight [1.0, 2.0] 1000"
    assert read_checkpoint(folder).config == ChameleonConfig()


def test_the_built_in_formats_come_first() -> None:
    assert [each.spec.name for each in REGISTRY.registered(CHECKPOINT_FORMATS_HOOK)] == ["hf", "meta", "gguf", "acme"]


def test_a_third_party_model_is_found_by_name(tmp_path: Path) -> None:
    assert resolve_folder("acme-small") == tmp_path
    assert "acme-chameleon" in [each.distribution for each in REGISTRY.registered(PRETRAINED_HOOK)]


def test_a_third_party_model_that_is_not_available_here_says_why(tmp_path: Path) -> None:
    unavailable = ", unavailable=lambda: 'its weights were not downloaded', api_version"
    (tmp_path / "acme_chameleon.py").write_text(textwrap.dedent(PLUGIN).replace(", api_version", unavailable))
    with pytest.raises(BrokenPluginError, match=r"'acme-small' of acme.* can't run on this machine: its weig"):
        resolve_folder("acme-small")


def test_an_unknown_format_names_those_that_are_installed(tmp_path: Path) -> None:
    with pytest.raises(UnknownPluginError, match=r"no checkpoint format named 'acne'.*acme.*Did you mean 'acme'\?"):
        write_checkpoint(Checkpoint(ChameleonConfig(), {}), tmp_path, checkpoint_format="acne")


def test_a_model_of_a_broken_plugin_is_an_error_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "acme_chameleon.py").write_text(textwrap.dedent(BROKEN))
    importlib.invalidate_caches()
    with (
        pytest.warns(UserWarning, match="acme-chameleon 0.2 is not used"),
        pytest.raises(BrokenPluginError, match="acme-large"),
    ):
        resolve_folder("acme")


def test_a_format_without_a_way_to_know_its_folders_is_quarantined(tmp_path: Path) -> None:
    plain = textwrap.dedent(PLUGIN).replace("yield CheckpointFormatSpec(", "yield PluginSpec(")
    plain = "\n".join(line for line in plain.splitlines() if "matches=" not in line and "marks=" not in line)
    (tmp_path / "acme_chameleon.py").write_text(plain)
    with pytest.warns(PluginWarning, match="returned the spec 'acme' without matches"):
        names = [registered.spec.name for registered in REGISTRY.registered(CHECKPOINT_FORMATS_HOOK)]
    assert names == ["hf", "meta", "gguf"]
