"""``chameleon doctor``: what the machine can run, and what a model would run with."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from chameleon_backends import (
    HOOK_API_VERSION,
    AttentionBackendSpec,
    AttentionSpec,
    WeightQuantizerSpec,
    _builtins,
    get_weight_quantizer,
    hookimpl,
)
from chameleon_backends.quantizers import _builtins as quantizers
from chameleon_backends.registry import REGISTRY
from chameleon_core import ChameleonForConditionalGeneration, InterchangeWarning, save_checkpoint
from chameleon_core.cli import machine
from chameleon_core.cli.app import app
from chameleon_core.cli.rows import size
from chameleon_core.testing import make_config, make_model

WIDE = {"hidden_size": 128, "intermediate_size": 256}


def run(*arguments: object, columns: int = 100) -> Any:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)], env={"COLUMNS": str(columns)})


def report(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def named(choices: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (each for each in choices if each["name"] == name)
    return found


@pytest.fixture(autouse=True)
def only_builtins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever else is installed here; and nothing is measured, which takes its time."""
    monkeypatch.setenv("CHAMELEON_PLUGINS", "")
    monkeypatch.setattr(machine, "_gflops", lambda device, dtype: 100.0 if dtype == torch.float32 else 50.0)
    REGISTRY.reload()
    yield
    monkeypatch.undo()
    REGISTRY.reload()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers plugins beside the built-ins, by their hooks."""

    def install(**hooks: list[Any]) -> None:
        methods = {hook: hookimpl(lambda self, specs=specs: specs, specname=hook) for hook, specs in hooks.items()}
        monkeypatch.setattr(REGISTRY, "_builtins", (_builtins, quantizers, type("Plugin", (), methods)()))
        REGISTRY.reload()

    return install


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is stored in bfloat16."""
    path = tmp_path_factory.mktemp("model")
    make_model(make_config(**WIDE)).to(torch.bfloat16).save_pretrained(path)
    return path


# The machine.


def test_every_part_of_the_machine_is_named() -> None:
    found = report()
    assert found["machine"]["torch"] == torch.__version__
    assert next(iter(found["machine"]["devices"])) == "cpu"
    assert {speed["dtype"] for speed in found["speeds"]} == {"float32", "bfloat16", "float16"}
    packages = {each["name"]: each for each in found["packages"]}
    assert packages["chameleon-core"]["version"]
    assert packages["huggingface-hub"]["extra"] == "chameleon-core[hub]"
    assert "pytest" not in packages
    assert found["model"] is None


def test_what_several_extras_install_is_named_by_that_of_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version_of", lambda _: "1")
    requires = {name: ['huggingface-hub>=1; extra == "hub"'] for name in ("chameleon-vq", "chameleon-core")}
    monkeypatch.setattr(machine.importlib.metadata, "requires", requires.get)
    extras = {package.name: package.extra for package in machine.read_packages()}
    assert extras["huggingface-hub"] == "chameleon-core[hub]"


@pytest.mark.parametrize(
    ("architecture", "instructions", "ratio", "status", "said"),
    [
        ("x86_64", {}, 0.02, "emulated", "50× slower than float32: this processor has no instructions for it"),
        ("x86_64", {}, 1.0, "emulated", "1× as fast as float32: this processor has no instructions for it"),
        ("x86_64", {"avx512_bf16": True}, 1.9, "native", "1.9× as fast as float32"),
        ("x86_64", {"amx_bf16": True}, 0.5, "slower", "2× slower than float32"),
        ("aarch64", {}, 1.5, "native", "1.5× as fast as float32"),
        ("aarch64", {}, 0.1, "slower", "10× slower than float32"),
    ],
)
def test_a_dtype_is_judged_by_its_instructions_and_its_speed(
    architecture: str, instructions: Any, ratio: float, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": architecture, **instructions})
    monkeypatch.setattr(machine, "_gflops", lambda device, dtype: ratio if dtype == torch.bfloat16 else 1.0)
    _, bfloat16, _ = machine.measure("cpu")
    assert (bfloat16.status, bfloat16.note) == (status, said)


def test_a_dtype_that_a_device_can_not_multiply_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def gflops(device: torch.device, dtype: torch.dtype) -> float:
        if dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'\nand so on")
        return 1.0

    monkeypatch.setattr(machine, "_gflops", gflops)
    assert machine.measure("cpu")[2] == machine.Speed("cpu", "float16", None, "can't run", "not implemented for 'Half'")


def test_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert machine._gflops(torch.device("cpu"), torch.float32) > 0


def test_an_accelerator_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda index: (5_000_000_000, 8_000_000_000))
    monkeypatch.setattr(torch, "get_device_module", lambda kind: SimpleNamespace(get_device_name=lambda index: "Acme"))
    monkeypatch.setattr(
        "chameleon_core.cli.report.measure", lambda device: [machine.Speed(device, "bfloat16", 1e5, "native", "")]
    )
    printed = run().stdout
    assert re.search(r"cuda:0 +Acme, 5 GB of memory free", printed)
    assert re.search(r"cuda:0 bfloat16 +100000 GFLOP/s", printed)


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_600, "1 MB"), (13.5e9, "13.5 GB"), (2e12, "2000 GB")],
)
def test_sizes_are_for_people(num_bytes: float, expected: str) -> None:
    assert size(num_bytes) == expected


# A model.


def test_without_a_model_the_defaults_are_chosen() -> None:
    found = report()
    assert named(found["attention_backends"], "sdpa")["status"] == "chosen"
    assert (
        named(found["attention_backends"], "eager")["note"]
        == 'attn_implementation="eager" chooses it instead of the default'
    )
    assert named(found["weight_quantizers"], "none")["status"] == "chosen"
    assert named(found["weight_quantizers"], "int8")["note"] == 'quantization="int8" chooses it'


def test_the_size_of_a_model_and_its_requests_are_reported(folder: Path) -> None:
    found = report(folder)
    assert found["model"]["dtype"] == "bfloat16"
    stored = sum(tensor.numel() * 2 for tensor in make_model(make_config(**WIDE)).state_dict().values())
    assert found["model"]["num_bytes"] == stored
    assert report(folder, "--dtype", "float32")["model"]["num_bytes"] == 2 * stored
    assert (
        named(found["attention_backends"], "sdpa")["note"]
        == "the default, and serves everything that the model requests"
    )


def test_the_size_after_quantization_is_predicted(folder: Path) -> None:
    model = make_model(make_config(**WIDE))
    quantizer = get_weight_quantizer("int8")
    layers = [each for name, each in model.named_modules() if name.endswith("_proj")]
    weights = [each.weight for each in layers if isinstance(each, torch.nn.Linear)]
    stored = [tensor for weight in weights for tensor in quantizer.quantize(weight.detach()).values()]
    expected = report(folder)["model"]["num_bytes"] - sum(2 * weight.numel() for weight in weights)
    expected += sum(tensor.numel() * tensor.element_size() for tensor in stored)
    note = named(report(folder)["weight_quantizers"], "int8")["note"]
    assert note == f'quantization="int8" makes it {size(expected)}'


def test_a_quantizer_that_can_not_serve_a_model_says_which_parts_of_it(tmp_path: Path) -> None:
    make_model(make_config(hidden_size=128, intermediate_size=96)).save_pretrained(tmp_path)
    int4 = named(report(tmp_path)["weight_quantizers"], "int4")
    assert int4["status"] == "refuses"
    assert int4["note"].startswith("down_proj: 96 input features aren't a multiple of the group size 128")


def test_a_quantizer_that_fails_is_listed_with_its_failure(install: Callable[..., None], folder: Path) -> None:
    def fail() -> Any:
        raise OSError("no kernel")

    install(chameleon_weight_quantizers=[WeightQuantizerSpec(name="acme", factory=fail, api_version=HOOK_API_VERSION)])
    acme = named(report(folder)["weight_quantizers"], "acme")
    assert acme["status"] == "refuses"
    assert acme["note"].startswith("it fails: the weight quantizer 'acme' of chameleon-backends ")
    assert acme["note"].endswith("OSError: no kernel.")


def test_the_quantizer_of_a_checkpoint_is_chosen(folder: Path, tmp_path: Path) -> None:
    expected = named(report(folder)["weight_quantizers"], "int8")["note"].rpartition(" makes it ")[2]
    model = ChameleonForConditionalGeneration.from_pretrained(folder, quantization="int8")
    model.save_pretrained(tmp_path)
    found = report(tmp_path)["weight_quantizers"]
    assert (found[0]["name"], found[0]["status"]) == ("int8", "chosen")
    assert found[0]["note"] == f"the checkpoint is quantized with it: {expected}"
    assert named(found, "none")["note"] == "the checkpoint is quantized, with 'int8'"
    assert named(found, "int4")["note"] == "the checkpoint is quantized already"


def test_a_quantizer_that_is_not_installed_is_reported(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "eetq"}}))
    found = report(copy)["weight_quantizers"]
    assert "chosen" not in {each["status"] for each in found}
    assert named(found, "none")["note"].startswith("the checkpoint is quantized: no weight quantizer named 'eetq'")


def test_a_backend_is_asked_about_everything_that_a_model_needs(install: Callable[..., None], folder: Path) -> None:
    asked: list[AttentionSpec] = []

    def unsupported(spec: AttentionSpec) -> str | None:
        asked.append(spec)
        return "it has no backward pass" if spec.requires_grad else None

    picky = AttentionBackendSpec(name="picky", factory=object, api_version=HOOK_API_VERSION, unsupported=unsupported)
    sulky = AttentionBackendSpec(
        name="sulky",
        factory=object,
        api_version=HOOK_API_VERSION,
        unsupported=lambda spec: "not today",
    )
    install(chameleon_attention_backends=[picky, sulky])
    found = report(folder)["attention_backends"]
    expected = "; not for training or training on packed documents: it has no backward pass"
    assert named(found, "picky")["note"].endswith(expected)
    assert (named(found, "sulky")["status"], named(found, "sulky")["note"]) == ("refuses", "not today")
    assert {spec.dtype for spec in asked} == {torch.bfloat16}
    assert {(spec.query_length == 1, spec.has_padding, spec.document_ids_BS is not None) for spec in asked} == {
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
    }


def test_what_is_too_large_or_slow_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_memory_free", lambda: 1000)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    printed = run(folder).stdout
    assert "more than the 1 kB of free memory there" in printed
    assert 'bfloat16 is emulated there: dtype="float32" converts the weights' in printed


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_report_keeps_within_the_screen(folder: Path, columns: int) -> None:
    assert all(len(line) <= columns for line in run(folder, columns=columns).stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 1, "can't find the model 'nowhere'"),
        (["--device", "toaster"], 2, "toaster"),
        (["--dtype", "int8"], 2, "no floating dtype"),
        (["--dtype", "nn"], 2, "no floating dtype"),
        (["--dtype", "bflaot16"], 2, "Did you mean 'bfloat16'?"),
    ],
)
def test_an_error_that_a_user_can_fix_is_reported(arguments: list[str], code: int, said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert said in result.stderr


def test_what_transformers_would_get_wrong_is_named(tmp_path: Path) -> None:
    model = make_model(make_config(**WIDE))
    assert report_of(model, tmp_path / "text")["model"]["interchange"] is None
    model.config = model.config.replace(vq_config={"norm_num_groups": 8})
    with pytest.warns(InterchangeWarning):
        save_checkpoint(
            model, tmp_path / "both", config=model.config, image_weights={"quant_conv.bias": torch.zeros(1)}
        )
    said = report(tmp_path / "both")["model"]["interchange"]
    assert "norm_num_groups 8" in said
    assert "in transformers" in run(tmp_path / "both").stdout


def report_of(model: ChameleonForConditionalGeneration, folder: Path) -> Any:
    model.save_pretrained(folder)
    return report(folder)
