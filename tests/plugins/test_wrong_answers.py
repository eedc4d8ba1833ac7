"""Whatever a plugin raises or returns wrongly is an error that names it and its distribution, before a forward pass."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from chameleon_backends import (
    AttentionSpec,
    BrokenPluginError,
    ConfigError,
    QuantizedLinear,
    TensorLayout,
    WeightQuantizer,
    find_quantizer,
    get_attention_backend,
    get_weight_quantizer,
)
from chameleon_backends.backends.eager import EagerAttention
from chameleon_core import ChameleonForConditionalGeneration, read_checkpoint, write_checkpoint
from chameleon_core.checkpoints import resolve_folder
from chameleon_core.errors import ChameleonCoreError
from chameleon_core.formats import Checkpoint
from chameleon_core.testing import make_config, make_model
from chameleon_text import ChameleonProcessor, Text, Turn
from chameleon_text.errors import BrokenPluginError as TextBrokenPluginError
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer
from chameleon_vq.errors import BrokenPluginError as VQBrokenPluginError
from chameleon_vq.errors import ConfigError as VQConfigError

OWNER = r"'acme' of acme-wrong 0\.2"
Install = Callable[..., None]


class Panic(BaseException):
    """What an extension in Rust raises."""


def raising(*args: Any, **options: Any) -> Any:
    raise Panic("call failed")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(hook, factory, **fields)`` installs a plugin whose hook returns the spec called "acme"."""
    monkeypatch.setenv("CHAMELEON_PLUGINS", "acme-wrong")
    packages = [importlib.import_module(f"chameleon_{each}.registry") for each in ("vq", "text", "backends", "core")]

    def install(hook: str, factory: Any, **fields: Any) -> None:
        (registry,) = (each.REGISTRY for each in packages if hook in each.REGISTRY.kinds)
        spec = SimpleNamespace(name="acme", factory=factory, api_version=2, summary="wrong", **fields)

        def implementation() -> list[object]:
            return [spec]

        implementation.__name__ = hook
        module = ModuleType("acme_wrong")
        setattr(module, hook, importlib.import_module(f"{registry.project}.hookspecs").hookimpl(implementation))
        monkeypatch.setitem(sys.modules, "acme_wrong", module)
        info = tmp_path / "acme_wrong-0.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-wrong\nVersion: 0.2\n")
        (info / "entry_points.txt").write_text(f"[{registry.project}]\nacme = acme_wrong\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry.reload()

    yield install
    monkeypatch.undo()
    for each in packages:
        each.REGISTRY.reload()


class Quiet(EagerAttention):
    """A backend that is right, but for what a test replaces."""


def with_method(kind: type, name: str, method: Any) -> type:
    return type("Wrong", (kind,), {name: method})


def returning(value: Any) -> Callable[..., Any]:
    return lambda *args, **options: value


# Attention backends.


@pytest.mark.parametrize(
    ("factory", "fields", "said"),
    [
        (raising, {}, "failed, calling its factory: Panic: call failed"),
        (dict, {}, "returned a dict from factory; expected an object with plan and attend"),
        (returning(EagerAttention), {}, "returned the class EagerAttention from factory"),
        (returning(None), {}, "returned None from factory"),
        (Quiet, {"unavailable": raising}, "failed, calling its unavailable: Panic"),
        (Quiet, {"unavailable": returning(True)}, "returned True from unavailable; expected a sentence"),
        (Quiet, {"unavailable": returning("")}, "returned an empty str from unavailable"),
        (Quiet, {"unsupported": raising}, "failed, calling its unsupported: Panic"),
        (Quiet, {"unsupported": returning(False)}, "returned False from unsupported"),
        (with_method(Quiet, "plan", raising), {}, "failed, planning a forward pass: Panic"),
        (with_method(Quiet, "plan", lambda self: None), {}, "failed, planning a forward pass: TypeError"),
        (with_method(Quiet, "attend", raising), {}, "failed, computing attention: Panic"),
        (with_method(Quiet, "attend", returning(None)), {}, "returned None from attend; expected a tensor"),
        (
            with_method(Quiet, "attend", returning(torch.zeros(1, 2, 128))),
            {},
            r"returned a tensor \[1, 2, 128\] of torch.float32 from attend; expected \[1, 2, 2, 64\]",
        ),
        (
            with_method(Quiet, "attend", lambda self, query, *args, **options: query.double()),
            {},
            ".*of torch.float64 from attend; expected .* of torch.float32",
        ),
    ],
)
def test_an_attention_backend_is_tried_before_a_model_has_it(
    install: Install, factory: Any, fields: dict[str, Any], said: str
) -> None:
    install("chameleon_attention_backends", factory, **fields)
    with pytest.raises(BrokenPluginError, match=f"the attention backend {OWNER} {said}"):
        get_attention_backend("acme")
    with pytest.raises(ChameleonCoreError, match=f"{OWNER} {said}"):
        make_model(make_config(), attn_implementation="acme")


def test_an_attention_backend_that_fails_for_some_requests_only_is_named_there(install: Install) -> None:
    def plan(self: Any, spec: AttentionSpec) -> Any:
        return {}["padding"] if spec.has_padding else EagerAttention.plan(self, spec)

    install("chameleon_attention_backends", with_method(Quiet, "plan", plan))
    model = make_model(make_config(), attn_implementation="acme")
    input_ids = torch.arange(30, 36).reshape(2, 3)
    model(input_ids)
    with pytest.raises(BrokenPluginError, match=f"{OWNER} failed, planning a forward pass: KeyError"):
        model(input_ids, attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1]]))


def test_an_attention_backend_whose_factory_makes_tensors_is_made_for_a_model_that_is_loaded(
    install: Install, tmp_path: Path
) -> None:
    class Kept(EagerAttention):
        def __init__(self) -> None:
            self.one = torch.ones(())

        def attend(self, *args: Any, **options: Any) -> torch.Tensor:
            return super().attend(*args, **options) * self.one

    install("chameleon_attention_backends", Kept)
    make_model(make_config()).save_pretrained(tmp_path / "model")
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "model", attn_implementation="acme")
    assert model(torch.arange(30, 36)[None]).logits.isfinite().all()


# Weight quantizers.


class Steps(WeightQuantizer):
    """A quantizer that is right, but for what a test replaces."""

    def __init__(self, step: float = 0.5) -> None:
        self.step = step

    def layout(self, in_features: int, out_features: int) -> dict[str, TensorLayout]:
        return {"weight": TensorLayout(torch.int8, (out_features, in_features))}

    def quantize(self, weight_OI: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"weight": (weight_OI / self.step).round().to(torch.int8)}

    def dequantize(self, stored: Any) -> torch.Tensor:
        return stored["weight"] * self.step

    def options(self) -> dict[str, Any]:
        return {"step": self.step}


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (raising, "failed, calling its factory: Panic"),
        (returning(3), "returned 3 from factory; expected a WeightQuantizer"),
        (returning(Steps), "returned the class Steps from factory"),
        (with_method(Steps, "options", raising), "failed, returning its options: Panic"),
        (with_method(Steps, "options", returning(3)), "returned 3 from options"),
        (with_method(Steps, "quantize", raising), "failed, quantizing a weight: Panic"),
        (with_method(Steps, "quantize", returning(None)), "returned None from quantize"),
        (with_method(Steps, "quantize", returning({})), "from quantize, and its layout is"),
        (with_method(Steps, "layout", raising), "failed, calling its layout: Panic"),
        (with_method(Steps, "unsupported", raising), "failed, calling its unsupported: Panic"),
        (with_method(Steps, "prepare", raising), "failed, preparing a weight: Panic"),
    ],
)
def test_a_weight_quantizer_is_named_by_what_it_does_wrong(install: Install, factory: Any, said: str) -> None:
    install("chameleon_weight_quantizers", factory)
    with pytest.raises(BrokenPluginError, match=f"the weight quantizer {OWNER} .*{said}"):
        QuantizedLinear.from_linear(torch.nn.Linear(8, 8), get_weight_quantizer("acme"))


@pytest.mark.parametrize(
    "factory",
    [
        Steps,
        lambda **options: Steps(**options),
        lambda **options: Steps(options.get("step", 0.5)),  # drops what it doesn't know
    ],
)
def test_a_typo_in_an_option_is_refused_with_the_closest_one(install: Install, factory: Any) -> None:
    install("chameleon_weight_quantizers", factory)
    assert get_weight_quantizer("acme", step=2.0).options() == {"step": 2.0}
    with pytest.raises(ConfigError, match=r"'acme' has no option 'stpe'; its options are: step\. Did you mean 'step'"):
        get_weight_quantizer("acme", stpe=2.0)


def test_a_quantizer_that_fails_to_read_records_stops_only_its_own(install: Install) -> None:
    install("chameleon_weight_quantizers", Steps, from_record=raising)
    assert find_quantizer({"quant_method": "int8"})[0] == "int8"
    with pytest.raises(BrokenPluginError, match=f"{OWNER} failed, calling its from_record"):
        find_quantizer({"quant_method": "acme"})


@pytest.mark.parametrize("record", [3, {}, {"quant_method": 3}])
def test_a_record_that_is_none_is_refused(install: Install, record: Any) -> None:
    install("chameleon_weight_quantizers", Steps, to_record=returning(record))
    with pytest.raises(BrokenPluginError, match=f"{OWNER} returned a?.*from to_record; expected a mapping"):
        importlib.import_module("chameleon_backends.registry").REGISTRY.get(
            "chameleon_weight_quantizers", "acme"
        ).write_record({}, [])


# Checkpoint formats and named models.


def reader(result: Any) -> Any:
    return lambda: SimpleNamespace(read=result, write=raising)


@pytest.mark.parametrize(
    ("factory", "matches", "said"),
    [
        (reader(raising), returning(True), "failed, reading .*: Panic"),
        (reader(returning(None)), returning(True), "returned None from read; expected a Checkpoint"),
        (reader(returning(Checkpoint(None, {}))), returning(True), "returned a Checkpoint from read"),  # type: ignore[arg-type]
        (reader(returning(Checkpoint(make_config(), {"a": 1}))), returning(True), ".*aren't StoredTensors"),  # type: ignore[dict-item]
        (raising, returning(True), "failed, calling its factory: Panic"),
        (reader(raising), raising, "failed, calling its matches: Panic"),
        (reader(raising), returning(1), "returned 1 from matches; expected True or False"),
    ],
)
def test_a_checkpoint_format_is_named_by_what_it_does_wrong(
    install: Install, tmp_path: Path, factory: Any, matches: Any, said: str
) -> None:
    install("chameleon_core_checkpoint_formats", factory, matches=matches, marks="acme.txt")
    (tmp_path / "odd").mkdir()
    with pytest.raises(ChameleonCoreError, match=f"the checkpoint format {OWNER} {said}"):
        read_checkpoint(tmp_path / "odd")
    make_model(make_config()).save_pretrained(tmp_path / "model")  # a folder of another format is read
    assert read_checkpoint(tmp_path / "model").tensors


def test_a_checkpoint_format_that_fails_to_write_is_named(install: Install, tmp_path: Path) -> None:
    install("chameleon_core_checkpoint_formats", reader(raising), matches=returning(False), marks="acme.txt")
    with pytest.raises(ChameleonCoreError, match=f"{OWNER} failed, writing .*: Panic"):
        write_checkpoint(Checkpoint(make_config(), {}), tmp_path / "new", checkpoint_format="acme")


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (raising, "failed, calling its factory: Panic"),
        (returning(3), "returned 3 from factory; expected the path of a folder"),
        (returning("/no/such/folder"), "'/no/such/folder' from factory, which isn't a folder"),
        (returning(""), "returned a str from factory"),
    ],
)
def test_a_named_model_is_named_by_what_it_does_wrong(install: Install, factory: Any, said: str) -> None:
    install("chameleon_core_pretrained", factory)
    with pytest.raises(ChameleonCoreError, match=f"the pretrained model {OWNER} .*{said}"):
        resolve_folder("acme")


@pytest.mark.parametrize("hook", ["chameleon_core_pretrained", "chameleon_vq_pretrained"])
def test_a_folder_that_has_the_name_of_an_installed_model_is_said_with_both_meanings(
    install: Install, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(hook, returning(tmp_path))
    (tmp_path / "acme").mkdir()
    monkeypatch.chdir(tmp_path)
    find = resolve_folder if "core" in hook else importlib.import_module("chameleon_vq.registry").find_pretrained
    with pytest.warns(UserWarning, match=r"'acme' is the folder .*, and the .* 'acme' of acme-wrong 0\.2\."):
        assert find("acme") == Path("acme")
    assert find("./acme") == Path("acme")  # no warning, which would be an error


# Vector quantizers and named image tokenizers.

SMALL = {"resolution": 16, "base_channels": 32, "channel_multiplier": (1, 1), "num_res_blocks": 1, "latent_channels": 8}


@pytest.mark.parametrize(
    ("factory", "fields", "said"),
    [
        (raising, {}, "failed, calling its factory: Panic"),
        (returning(torch.nn.Linear), {}, "returned the class Linear from factory"),
        (returning(torch.nn.Identity()), {}, "returned an Identity whose num_codes is None; expected an int ≥ 1"),
        (raising, {"unsupported": raising}, "failed, calling its unsupported: Panic"),
        (raising, {"unsupported": returning(0)}, "returned 0 from unsupported"),
    ],
)
def test_a_vector_quantizer_is_named_by_what_it_does_wrong(
    install: Install, factory: Any, fields: dict[str, Any], said: str
) -> None:
    install("chameleon_vq_quantizers", factory, **fields)
    with pytest.raises(VQBrokenPluginError, match=f"the vector quantizer {OWNER} {said}"):
        ChameleonVQVAE(ChameleonVQVAEConfig(quantizer="acme", embed_dim=4, num_embeddings=16, **SMALL))


def test_a_typo_in_the_options_of_a_vector_quantizer_is_refused(install: Install) -> None:
    def factory(config: Any) -> Any:
        return dict(**config.quantizer_options) and (lambda levels: levels)(**config.quantizer_options)

    install("chameleon_vq_quantizers", factory)
    config = ChameleonVQVAEConfig(quantizer="acme", quantizer_options={"levls": 3}, **SMALL)
    with pytest.raises(VQConfigError, match="the quantizer 'acme' has no option 'levls'"):
        ChameleonVQVAE(config)


@pytest.mark.parametrize("factory", [raising, returning(None), returning("/no/such/folder")])
def test_a_named_image_tokenizer_is_named_by_what_it_does_wrong(install: Install, factory: Any) -> None:
    install("chameleon_vq_pretrained", factory)
    with pytest.raises(VQBrokenPluginError, match=f"the image tokenizer {OWNER} "):
        ImageTokenizer.from_pretrained("acme")


# Templates; codecs are in chameleon-text's own tests.


@pytest.mark.parametrize(
    ("factory", "fields"),
    [
        (raising, {}),
        (dict, {}),
        (returning(None), {}),
        (dict, {"unavailable": raising}),
        (lambda: SimpleNamespace(render=raising, parse=raising), {}),
        (lambda: SimpleNamespace(render=returning(3), parse=raising), {}),
    ],
)
def test_a_template_is_named_by_what_it_does_wrong(install: Install, factory: Any, fields: dict[str, Any]) -> None:
    install("chameleon_text_templates", factory, **fields)
    with pytest.raises(TextBrokenPluginError, match=f"the template {OWNER} "):
        ChameleonProcessor(make_tokenizer(), template="acme").encode_messages([Turn("user", (Text("Hi"),))])


@pytest.mark.parametrize("hook", ["chameleon_attention_backends", "chameleon_text_templates"])
def test_what_a_factory_prints_is_on_stderr(install: Install, hook: str, capsys: pytest.CaptureFixture[str]) -> None:
    def factory() -> Any:
        sys.stdout.write("loading kernels\n")
        return Quiet() if "attention" in hook else SimpleNamespace(render=returning([]), parse=returning([]))

    install(hook, factory)
    if "attention" in hook:
        get_attention_backend("acme")
    else:
        ChameleonProcessor(make_tokenizer(), template="acme")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loading kernels" in captured.err
