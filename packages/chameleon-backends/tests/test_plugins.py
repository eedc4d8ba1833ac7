"""Plugins of all kinds, good and bad, found through the metadata of distributions made for the test."""

from __future__ import annotations

import importlib
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from chameleon_backends import (
    REGISTRY,
    AttentionBackendSpec,
    BrokenPluginError,
    ConfigError,
    PluginWarning,
    UnknownPluginError,
    _builtins,
    find_quantizer,
    get_weight_quantizer,
    hookspecs,
    why_attention_unsupported,
    why_quantizer_unsupported,
)
from chameleon_backends.plugins import ENVIRONMENT_VARIABLE, PluginRegistry, Quarantined

HOOK = "chameleon_attention_backends"
BUILT_IN = ["eager", "sdpa", "flash", "flash_attention_2", "flash_attention_3", "flex"]

GOOD = """
    from chameleon_backends import HOOK_API_VERSION, AttentionBackendSpec, hookimpl

    @hookimpl
    def chameleon_attention_backends():
        return [AttentionBackendSpec(name="flare", factory=object, api_version=HOOK_API_VERSION)]
"""

QUANTIZER = """
    import torch
    from chameleon_backends import HOOK_API_VERSION, TensorLayout, WeightQuantizer, WeightQuantizerSpec, hookimpl

    class Steps(WeightQuantizer):
        def __init__(self, *, step=0.5):
            self.step = step

        def layout(self, in_features, out_features):
            return {"weight": TensorLayout(torch.int8, (out_features, in_features))}

        def quantize(self, weight_OI):
            return {"weight": (weight_OI / self.step).round().to(torch.int8)}

        def dequantize(self, stored):
            return stored["weight"] * self.step

        def options(self):
            return {"step": self.step}

    @hookimpl
    def chameleon_weight_quantizers():
        return [WeightQuantizerSpec(name="acme-steps", factory=Steps, api_version=HOOK_API_VERSION)]
"""

Install = Callable[..., None]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> PluginRegistry:
    """A registry like the package's own, so that a test doesn't change that one."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    return PluginRegistry(
        "chameleon_backends",
        distribution="chameleon-backends",
        hookspecs=hookspecs,
        kinds={HOOK: "attention backend"},
        api_version=hookspecs.HOOK_API_VERSION,
        builtins=[_builtins],
        spec_types={HOOK: AttentionBackendSpec},
    )


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(distribution, module_source)`` puts a distribution with one plugin where Python finds it."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def install(
        distribution: str,
        source: str,
        *,
        version: str = "0.2",
        entry_point: str = "",
        group: str = "chameleon_backends",
    ) -> None:
        module = distribution.replace("-", "_")
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        metadata = tmp_path / f"{module}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry_point or module} = {module}\n")
        importlib.invalidate_caches()

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def names(registry: PluginRegistry) -> list[str]:
    return [registered.spec.name for registered in registry.registered(HOOK)]


def only_quarantined(registry: PluginRegistry) -> Quarantined:
    """Load, expecting a warning about the one bad plugin, and return it."""
    with pytest.warns(PluginWarning, match="is not used"):
        quarantined = registry.quarantined()
    assert len(quarantined) == 1
    return quarantined[0]


def test_builtins_come_first_and_name_their_distribution(registry: PluginRegistry, install: Install) -> None:
    install("aaa-backends", GOOD)
    assert names(registry) == [*BUILT_IN, "flare"]
    assert [registered.distribution for registered in registry.registered(HOOK)] == [
        *["chameleon-backends"] * len(BUILT_IN),
        "aaa-backends",
    ]
    assert registry.quarantined() == ()


def test_a_weight_quantizer_of_ones_own_is_found_by_its_name_and_by_its_record(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "acme-steps")
    install("acme-steps", QUANTIZER)
    REGISTRY.reload()
    try:
        quantizer = get_weight_quantizer("acme-steps", step=2.0)
        assert quantizer.dequantize(quantizer.quantize(torch.tensor([[2.9, -4.2]]))).tolist() == [[2.0, -4.0]]
        assert find_quantizer({"quant_method": "acme-steps", **quantizer.options()}) == ("acme-steps", {"step": 2.0})
        with pytest.raises(ConfigError, match=r"'acme-steps' has no option 'steps'; .* step\. Did you mean 'step'"):
            get_weight_quantizer("acme-steps", steps=2.0)
    finally:
        monkeypatch.undo()
        REGISTRY.reload()


def test_an_installed_plugin_is_found_by_its_entry_point(registry: PluginRegistry, install: Install) -> None:
    install("acme-flare", GOOD)
    assert registry.get(HOOK, "flare").factory is object
    registered = registry.registered(HOOK)[-1]
    assert (registered.distribution, registered.version) == ("acme-flare", "0.2")


def test_nothing_is_imported_before_the_first_lookup(registry: PluginRegistry, install: Install) -> None:
    install("acme-flare", GOOD)
    assert "acme_flare" not in sys.modules
    registry.registered(HOOK)
    assert "acme_flare" in sys.modules


def test_an_unknown_name_says_what_is_installed_and_what_is_close(registry: PluginRegistry, install: Install) -> None:
    install("acme-flare", GOOD)
    with pytest.raises(UnknownPluginError) as caught:
        registry.get(HOOK, "flre")
    ours = registry.registered(HOOK)[0].version
    assert str(caught.value) == (
        "no attention backend named 'flre'. "
        f"Installed: {', '.join(BUILT_IN)} (chameleon-backends {ours}), flare (acme-flare 0.2). Did you mean 'flare'?"
    )
    assert isinstance(caught.value, ValueError)


def test_an_unknown_name_without_a_close_match_gets_no_suggestion(registry: PluginRegistry) -> None:
    with pytest.raises(UnknownPluginError, match=r"\)\.$"):
        registry.get(HOOK, "quantum")


BAD = {
    "raises on import": ("raise RuntimeError('no device')", "RuntimeError: no device"),
    "needs a missing package": ("import a_package_that_is_not_there", "ModuleNotFoundError: No module named"),
    "is not Python": ("def (", "SyntaxError"),
    "exits on import": ("import sys; sys.exit('goodbye')", "SystemExit: goodbye"),
    "misspells the hook": (GOOD.replace("chameleon_attention_backends", "chameleon_atention_backends"), "unknown hook"),
    "takes arguments that the hook lacks": (GOOD.replace("backends():", "backends(model):"), "model"),
    "marks no function": (GOOD.replace("@hookimpl", ""), "none of its functions is marked with the hookimpl"),
    "takes a built-in's name": (GOOD.replace("flare", "sdpa"), r"'sdpa' exists already \(chameleon-backends "),
    "was written for version 1": (
        GOOD.replace("=HOOK_API_VERSION", "=1"),
        r"'flare' was written for version 1 of the chameleon_backends hooks; this is version 2\. "
        r"A spec of version 2 says in unavailable\(\) why .* Move that answer to unavailable, and state api",
    ),
    "was written for a later version": (
        GOOD.replace("=HOOK_API_VERSION", "=3"),
        r"'flare' was written for version 3 of the chameleon_backends hooks; this is version 2\. "
        r"It needs a newer chameleon-backends\.$",
    ),
    "returns something else": (
        GOOD.replace("AttentionBackendSpec(name=", "dict(name="),
        "returned a spec of type dict without name; AttentionBackendSpec requires name, factory, api_version",
    ),
    "returns a spec without a factory": (
        "from types import SimpleNamespace as Spec\n"
        + textwrap.dedent(GOOD).replace("AttentionBackendSpec(", "Spec(").replace("factory=object, ", ""),
        "returned the spec 'flare' without factory; AttentionBackendSpec requires name, factory, api_version",
    ),
    "returns a spec without a version": (
        "from types import SimpleNamespace as Spec\n"
        + textwrap.dedent(GOOD).replace("AttentionBackendSpec(", "Spec(").replace(", api_version=HOOK_API_VERSION", ""),
        "returned the spec 'flare' without api_version",
    ),
    "states a version that isn't an integer": (
        GOOD.replace("=HOOK_API_VERSION", "='2'"),
        "returned the spec 'flare' whose api_version is '2'; it must be an integer",
    ),
    "has a factory that can't be called": (
        GOOD.replace("factory=object", "factory=7"),
        "returned the spec 'flare' whose factory is 7; it must be a callable or a string 'module:attribute'",
    ),
    "has a factory that is no import string": (
        GOOD.replace("factory=object", "factory='acme.make'"),
        "whose factory is 'acme.make'; it must be a callable or a string 'module:attribute'",
    ),
    "has a summary that is no text": (
        GOOD.replace("factory=object", "factory=object, summary=b'x'"),
        "whose summary is b'x'; it must be a string",
    ),
    "has nothing to ask": (
        GOOD.replace("factory=object", "factory=object, unavailable=None"),
        "whose unavailable is None; it must be a callable or a string 'module:attribute'",
    ),
    "returns nothing": (GOOD.replace("return [", "_ = ["), "returned None; it must return a list of PluginSpec"),
    "names nothing": (
        GOOD.replace('"flare"', '""'),
        "whose name is ''; it must be a non-empty string",
    ),
    "names one twice": (GOOD.replace("return [", "return 2 * ["), "names the attention backend 'flare' twice"),
    "raises in the hook": (GOOD.replace("return [", "return [1 / 0,"), "ZeroDivisionError"),
    "raises midway": (
        GOOD.replace("return [", "yield from [") + "        raise OSError('halfway')\n",
        "OSError: halfway",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_plugin_is_quarantined_with_its_reason_and_the_others_work(
    registry: PluginRegistry, install: Install, case: str
) -> None:
    source, reason = BAD[case]
    install("acme-bad", source)
    install("zeta-good", GOOD.replace("flare", "zeta"))
    bad = only_quarantined(registry)
    assert (bad.plugin, bad.distribution, bad.version) == ("acme_bad", "acme-bad", "0.2")
    with pytest.raises(BrokenPluginError, match=reason):
        registry.get(HOOK, "acme_bad")
    assert names(registry) == [*BUILT_IN, "zeta"]
    assert registry.get(HOOK, "sdpa").name == "sdpa"


@pytest.mark.parametrize("case", ["was written for version 1", "raises midway", "returns a spec without a factory"])
def test_a_quarantined_plugin_that_is_asked_for_by_its_backends_name_is_an_error(
    registry: PluginRegistry, install: Install, case: str
) -> None:
    source, reason = BAD[case]
    install("acme-bad", source)
    assert "flare" in only_quarantined(registry).names
    with pytest.raises(
        BrokenPluginError, match=f"the attention backend 'flare' of acme-bad 0.2 can't be used: .*{reason}"
    ):
        registry.get(HOOK, "flare")


def test_the_error_of_a_quarantined_plugin_has_its_cause(registry: PluginRegistry, install: Install) -> None:
    install("acme-bad", BAD["raises on import"][0])
    only_quarantined(registry)
    with pytest.raises(BrokenPluginError) as caught:
        registry.get(HOOK, "acme_bad")
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_unknown_name_also_says_which_plugins_are_broken(registry: PluginRegistry, install: Install) -> None:
    # A plugin that can't be imported can't say its backends' names; the requested one may be among them.
    install("acme-bad", BAD["raises on import"][0])
    only_quarantined(registry)
    with pytest.raises(UnknownPluginError, match=r"Installed but broken: acme_bad \(acme-bad 0\.2\)\."):
        registry.get(HOOK, "flare")


def test_the_first_of_two_plugins_keeps_a_name_that_both_take(registry: PluginRegistry, install: Install) -> None:
    install("acme-one", GOOD)
    install("acme-two", GOOD, version="3.0")
    bad = only_quarantined(registry)
    assert bad.distribution == "acme-two"
    assert "exists already (acme-one 0.2)" in bad.reason
    assert registry.registered(HOOK)[-1].distribution == "acme-one"


def test_no_part_of_a_bad_plugin_is_used(registry: PluginRegistry, install: Install) -> None:
    second = 'AttentionBackendSpec(name="sdpa", factory=object, api_version=HOOK_API_VERSION), '
    install("acme-bad", GOOD.replace("return [", f"return [{second}"))
    only_quarantined(registry)
    assert names(registry) == BUILT_IN


def test_a_bad_plugin_is_warned_of_once(registry: PluginRegistry, install: Install) -> None:
    install("acme-bad", BAD["raises on import"][0])
    with pytest.warns(PluginWarning, match="plugin 'acme_bad' of acme-bad 0.2 is not used: RuntimeError: no device"):
        registry.registered(HOOK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.registered(HOOK)
        registry.quarantined()
        registry.get(HOOK, "eager")


def test_where_warnings_are_errors_the_plugins_are_still_found(registry: PluginRegistry, install: Install) -> None:
    install("acme-bad", BAD["raises on import"][0])
    install("zeta-good", GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PluginWarning):
            registry.registered(HOOK)
    assert names(registry) == [*BUILT_IN, "flare"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("", BUILT_IN),
        ("acme-one", [*BUILT_IN, "one"]),
        ("two", [*BUILT_IN, "two"]),
        (" acme-one , two ", [*BUILT_IN, "one", "two"]),
        ("Acme_One,,TWO", [*BUILT_IN, "one", "two"]),
        ("acme.model", BUILT_IN),
    ],
)
def test_the_environment_restricts_what_loads_by_distribution_or_entry_point(
    registry: PluginRegistry,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    allowed: str,
    expected: list[str],
) -> None:
    install("acme-one", GOOD.replace("flare", "one"))
    install("acme-two", GOOD.replace("flare", "two"), entry_point="two")
    install("acme-model", "", group="chameleon_core")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, allowed)
    assert names(registry) == expected
    assert ("acme_one" in sys.modules) is ("one" in expected)


def test_a_name_in_the_environment_that_nothing_has_is_warned_of_with_the_closest(
    registry: PluginRegistry, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme-flare", GOOD)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "acme-flair,acme-flare")
    with pytest.warns(PluginWarning, match=r"CHAMELEON_PLUGINS has 'acme-flair', .* Did you mean 'acme-flare'\?"):
        assert names(registry) == [*BUILT_IN, "flare"]
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "quantum")
    registry.reload()
    with pytest.warns(PluginWarning, match=r"CHAMELEON_PLUGINS has 'quantum', .* Installed: acme-flare"):
        assert names(registry) == BUILT_IN


def test_an_unknown_name_says_that_the_environment_restricts_what_loads(
    registry: PluginRegistry, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme-flare", GOOD)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    with pytest.raises(UnknownPluginError, match="CHAMELEON_PLUGINS='' restricts what is loaded"):
        registry.get(HOOK, "flare")


def test_reload_finds_what_was_installed_meanwhile(registry: PluginRegistry, install: Install) -> None:
    assert names(registry) == BUILT_IN
    install("acme-flare", GOOD)
    assert names(registry) == BUILT_IN
    registry.reload()
    assert names(registry) == [*BUILT_IN, "flare"]


def test_reload_finds_a_plugin_that_was_fixed(registry: PluginRegistry, install: Install) -> None:
    install("acme-bad", "import os\nif 'ACME_OK' not in os.environ: raise RuntimeError('no')\n" + textwrap.dedent(GOOD))
    only_quarantined(registry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACME_OK", "1")
        registry.reload()
        assert names(registry) == [*BUILT_IN, "flare"]
    assert registry.quarantined() == ()


def test_a_plugin_may_look_others_up_while_it_is_loaded(
    registry: PluginRegistry, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "registry_under_test", registry)  # type: ignore[arg-type]
    look_up = f"import registry_under_test\nregistry_under_test.get({HOOK!r}, 'sdpa')\n"
    install("acme-flare", look_up + textwrap.dedent(GOOD))
    assert names(registry) == [*BUILT_IN, "flare"]


def test_threads_that_look_up_together_all_find_every_plugin(registry: PluginRegistry, install: Install) -> None:
    install("acme-flare", "import time\ntime.sleep(0.05)\n" + textwrap.dedent(GOOD))
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(names(registry))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[*BUILT_IN, "flare"]] * 4


def test_a_reason_is_given_where_a_plugins_own_check_fails(registry: PluginRegistry, install: Install) -> None:
    source = "def check(*request):\n    raise OSError('no driver')\n" + textwrap.dedent(GOOD)
    install("acme-flare", source.replace("factory=object,", "factory=object, unavailable=check,"))
    install(
        "acme-glow", source.replace("factory=object,", "factory=object, unsupported=check,").replace("flare", "glow")
    )
    plugins = {registered.spec.name: registered for registered in registry.registered(HOOK)}
    reason = "the attention backend 'flare' of acme-flare 0.2 failed, calling its unavailable: OSError: no driver."
    assert plugins["flare"].why_unavailable() == plugins["flare"].why_unsupported("a request") == reason
    reason = "the attention backend 'glow' of acme-glow 0.2 failed, calling its unsupported: OSError: no driver."
    assert plugins["glow"].why_unavailable() is None
    assert plugins["glow"].why_unsupported("a request") == reason
    assert plugins["sdpa"].why_unavailable() is None


def test_what_can_not_run_here_is_not_asked_about_a_request(registry: PluginRegistry, install: Install) -> None:
    source = GOOD.replace(
        "factory=object,", "factory=object, unavailable=lambda: 'no GPU', unsupported=lambda r: 1 / 0,"
    )
    install("acme-flare", source)
    spec = registry.get(HOOK, "flare")
    assert spec.why_unavailable() == spec.why_unsupported("a request") == "no GPU"
    with pytest.raises(BrokenPluginError, match=r"'flare' of acme-flare 0\.2 can't run on this machine: no GPU\.$"):
        spec.make()


LAZY = GOOD.replace("factory=object", "factory='acme_heavy:Kernel.make', unavailable='acme_heavy:why'")


def test_a_string_is_imported_when_it_is_first_called(
    registry: PluginRegistry, install: Install, tmp_path: Path
) -> None:
    source = "class Kernel:\n    @staticmethod\n    def make(): return 'a kernel'\ndef why(): return None\n"
    (tmp_path / "acme_heavy.py").write_text(source)
    install("acme-flare", LAZY)
    spec = registry.get(HOOK, "flare")
    assert type(spec) is AttentionBackendSpec
    assert "acme_heavy" not in sys.modules
    try:
        assert registry.registered(HOOK)[-1].why_unavailable() is None
        assert spec.make() == "a kernel"
        assert repr(spec.factory) == "LazyCallable('acme_heavy:Kernel.make')"
    finally:
        del sys.modules["acme_heavy"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(None, "ModuleNotFoundError: No module named 'acme_heavy'", id="no module"),
        pytest.param("", "AttributeError: module 'acme_heavy' has no attribute 'make'", id="no attribute"),
        pytest.param("raise OSError('no driver')", "OSError: no driver", id="raises"),
        pytest.param("import sys; sys.exit('bye')", "SystemExit: bye", id="exits"),
    ],
)
def test_a_string_that_can_not_be_imported_is_an_error_when_it_is_asked_for(
    registry: PluginRegistry, install: Install, tmp_path: Path, source: str | None, reason: str
) -> None:
    if source is not None:
        (tmp_path / "acme_heavy.py").write_text(source)
    install("acme-flare", GOOD.replace("factory=object", "factory='acme_heavy:make'"))
    assert names(registry) == [*BUILT_IN, "flare"]
    try:
        with pytest.raises(BrokenPluginError) as caught:
            registry.get(HOOK, "flare").make()
    finally:
        sys.modules.pop("acme_heavy", None)
    assert str(caught.value) == (
        "the attention backend 'flare' of acme-flare 0.2 can't be used: "
        f"its factory 'acme_heavy:make' can't be imported: {reason}."
    )
    assert caught.value.__cause__ is not None


def test_a_check_that_can_not_be_imported_is_a_reason_in_a_listing(registry: PluginRegistry, install: Install) -> None:
    install("acme-flare", LAZY)
    assert str(registry.registered(HOOK)[-1].why_unavailable()).startswith(
        "the attention backend 'flare' of acme-flare 0.2 can't be used: its unavailable 'acme_heavy:why' can't be "
    )


def test_a_string_that_names_what_can_not_be_called_is_an_error(registry: PluginRegistry, install: Install) -> None:
    install("acme-flare", GOOD.replace("factory=object", "factory='math:pi'"))
    with pytest.raises(BrokenPluginError, match=r"its factory 'math:pi' is 3\.14\d+; it must be a callable"):
        registry.get(HOOK, "flare").make()


@pytest.mark.parametrize(
    "make",
    [
        "from chameleon_backends import PluginSpec as Spec",
        "from types import SimpleNamespace as Spec",
        "from collections import namedtuple\nSpec = namedtuple('Spec', 'name factory api_version')",
        "import dataclasses\nSpec = dataclasses.make_dataclass('Spec', ['name', 'factory', 'api_version'])",
    ],
)
def test_a_spec_is_known_by_its_fields_whatever_its_class(
    registry: PluginRegistry, install: Install, make: str
) -> None:
    install("acme-flare", f"{make}\n{textwrap.dedent(GOOD).replace('AttentionBackendSpec(', 'Spec(')}")
    spec = registry.get(HOOK, "flare")
    assert type(spec) is AttentionBackendSpec
    assert (spec.name, spec.factory, spec.summary) == ("flare", object, "")
    assert spec.why_unsupported("a request") is None


def test_a_weight_quantizer_s_own_fields_may_be_strings(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "acme-steps")
    install("acme-steps", QUANTIZER.replace("factory=Steps", "factory='acme_steps:Steps', from_record='builtins:dict'"))
    REGISTRY.reload()
    try:
        assert get_weight_quantizer("acme-steps", step=2.0).options() == {"step": 2.0}
        record = {"quant_method": "of another", "step": 2.0}
        assert find_quantizer(record) == ("acme-steps", record)
    finally:
        monkeypatch.undo()
        REGISTRY.reload()


def test_a_question_without_a_request_is_deprecated() -> None:
    with pytest.warns(
        DeprecationWarning, match="why_attention_unsupported without a request .* why_attention_unavailable"
    ):
        assert why_attention_unsupported("sdpa") is None
    with pytest.warns(
        DeprecationWarning, match="why_quantizer_unsupported without a request .* why_quantizer_unavailable"
    ):
        assert why_quantizer_unsupported("int8") is None


def test_old_names_of_the_hook_constants_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"registry\.ATTENTION_HOOK is .*\.ATTENTION_BACKENDS_HOOK now"):
        from chameleon_backends.registry import ATTENTION_HOOK
    with pytest.warns(DeprecationWarning, match=r"registry\.QUANTIZERS_HOOK is .*\.WEIGHT_QUANTIZERS_HOOK now"):
        from chameleon_backends.registry import QUANTIZERS_HOOK
    assert (ATTENTION_HOOK, QUANTIZERS_HOOK) == ("chameleon_attention_backends", "chameleon_weight_quantizers")
