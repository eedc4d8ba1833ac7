"""The conformance suite: wrong quantizers fail the test of the law that they break, and a suite can't be weakened."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor, nn

import chameleon_vq.testing.vector_quantizers
from chameleon_vq import HOOK_API_VERSION, BrokenPluginError, ChameleonVQVAEConfig, PluginSpec, Quantized, hookimpl
from chameleon_vq.quantizers.contract import count_codes, straight_through
from chameleon_vq.testing import VectorQuantizerConformance

Install = Callable[..., None]


class Suite(VectorQuantizerConformance):
    """The suite of what each test registers."""

    name = "acme"


class Right(nn.Module):
    """Chooses the nearest of random entries; each wrong quantizer below changes one thing."""

    codes_per_position = 1
    entries_ZD: Tensor

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__()
        self.num_codes = config.num_embeddings
        self.register_buffer("entries_ZD", torch.randn(config.num_embeddings, config.embed_dim))

    def choose(self, latents_MD: Tensor) -> Tensor:
        """The nearest entry, computed by differences, without a product that autocast could round."""
        entries_ZD = self.entries_ZD.float()
        return torch.cat(
            [(part_MD.float()[:, None] - entries_ZD).square().sum(2).argmin(1) for part_MD in latents_MD.split(512)]
        )

    def codes(self, latents_BDhw: Tensor) -> Tensor:
        batch, width, height, columns = latents_BDhw.shape
        return self.choose(latents_BDhw.permute(0, 2, 3, 1).reshape(-1, width)).view(batch, height, columns)

    def loss(self, latents_BDhw: Tensor, quantized_BDhw: Tensor) -> Tensor:
        return (latents_BDhw.float() - quantized_BDhw).square().mean()

    def through(self, latents_BDhw: Tensor, quantized_BDhw: Tensor) -> Tensor:
        return straight_through(latents_BDhw, quantized_BDhw)

    def usage(self, codes: Tensor) -> Tensor:
        return count_codes(codes, self.num_codes)

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        codes = self.codes(latents_BDhw)
        quantized_BDhw = self.entries_ZD[codes].permute(0, 3, 1, 2)
        loss = self.loss(latents_BDhw, quantized_BDhw)
        return Quantized(self.through(latents_BDhw, quantized_BDhw), codes, loss, self.usage(codes))

    def lookup(self, codes: Tensor) -> Tensor:
        return self.entries_ZD[codes].permute(0, 3, 1, 2)


def wrong(base: type[Right] = Right, **methods: Any) -> type[Right]:
    """A correct quantizer except for these methods."""
    return type("Wrong", (base,), methods)


def giving(change: Callable[[Tensor], Tensor]) -> type[Right]:
    """A correct quantizer except for its codes."""

    def forward(self: Right, latents_BDhw: Tensor) -> Quantized:
        quantized = Right.forward(self, latents_BDhw)
        return replace(quantized, codes=change(quantized.codes))

    return wrong(forward=forward)


class OfTwo(Right):
    """Two codes per position, of the halves of the latent's width."""

    codes_per_position = 2

    def codes(self, latents_BDhw: Tensor) -> Tensor:
        return torch.stack([super(OfTwo, self).codes(self.padded(each)) for each in latents_BDhw.chunk(2, 1)], dim=-1)

    def padded(self, half: Tensor) -> Tensor:
        return torch.cat([half, torch.zeros_like(half)], dim=1)

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__(config)
        self.entries_ZD[:, config.embed_dim // 2 :] = 0

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        codes = self.codes(latents_BDhw)
        quantized_BDhw = self.lookup(codes)
        loss = self.loss(latents_BDhw, quantized_BDhw)
        return Quantized(self.through(latents_BDhw, quantized_BDhw), codes, loss, self.usage(codes))

    def lookup(self, codes: Tensor) -> Tensor:
        halves = [self.entries_ZD[each][..., : self.entries_ZD.shape[1] // 2] for each in codes.unbind(-1)]
        return torch.cat(halves, dim=-1).permute(0, 3, 1, 2)


class Forgetful(Right):
    """Keeps its entries outside the state dict."""

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__(config)
        self.register_buffer("entries_ZD", self.entries_ZD, persistent=False)


class Counting(Right):
    """Changes its state on every call."""

    calls: Tensor

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__(config)
        self.register_buffer("calls", torch.zeros(1))

    def codes(self, latents_BDhw: Tensor) -> Tensor:
        self.calls += 1
        return super().codes(latents_BDhw)


class Remembering(Right):
    """Chooses by a mean of its training latents, which it doesn't save."""

    seen: Any = 0.0

    def choose(self, latents_MD: Tensor) -> Tensor:
        if self.training:
            self.seen = latents_MD.detach().mean()
        return super().choose(latents_MD - 10 * self.seen)


class Learning(Right):
    """Has trained entries, and a lookup that doesn't use them."""

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__(config)
        self.learned = nn.Parameter(self.entries_ZD.clone())

    def forward(self, latents_BDhw: Tensor) -> Quantized:
        codes = self.codes(latents_BDhw)
        quantized_BDhw = self.learned[codes].permute(0, 3, 1, 2)
        loss = self.loss(latents_BDhw.detach(), quantized_BDhw)
        return Quantized(self.through(latents_BDhw, quantized_BDhw), codes, loss, self.usage(codes))


def near(latents_MD: Tensor, entries_ZD: Tensor) -> Tensor:
    """Computes distances by products, which autocast rounds."""
    return (entries_ZD.square().sum(1) - 2 * latents_MD @ entries_ZD.T).argmin(1)


def in_row_order_of_columns(self: Right, latents_BDhw: Tensor) -> Tensor:
    """Flattens positions by column, and unflattens them by row."""
    batch, width, height, columns = latents_BDhw.shape
    return self.choose(latents_BDhw.permute(0, 3, 2, 1).reshape(-1, width)).view(batch, height, columns)


def of_normed_batch(self: Right, latents_MD: Tensor) -> Tensor:
    return Right.choose(self, latents_MD - latents_MD.mean(0))


def at_random(self: Right, latents_MD: Tensor) -> Tensor:
    return (Right.choose(self, latents_MD) + torch.randint(2, latents_MD.shape[:1])) % self.num_codes


def mean_of_neighbours(self: Right, latents_BDhw: Tensor, quantized_BDhw: Tensor) -> Tensor:
    return (
        straight_through(latents_BDhw, quantized_BDhw)
        + 0 * latents_BDhw.mean(dim=(2, 3), keepdim=True)
        + (latents_BDhw.mean() - latents_BDhw.mean().detach())
    )


WRONG: dict[str, dict[str, Any]] = {
    "test_it_is_a_layer_that_says_how_many_codes_it_has": {
        "a number that is a tensor": wrong(codes_per_position=torch.tensor(1)),
        "no code at all": wrong(codes_per_position=0),
        "nothing to choose from": wrong(
            __init__=lambda self, config: (Right.__init__(self, config), setattr(self, "num_codes", 1))[0]
        ),
    },
    "test_shapes_and_dtypes": {
        "height and width swapped": giving(lambda codes: codes.transpose(1, 2)),
        "codes in a row": giving(lambda codes: codes.flatten(1)),
        "codes of 32 bits": giving(lambda codes: codes.int()),
        "an axis for one code": giving(lambda codes: codes[..., None]),
        "latents with the width last": wrong(through=lambda self, z, q: straight_through(z, q).movedim(1, -1)),
        "a loss for each picture": wrong(loss=lambda self, z, q: (z - q).square().mean(dim=(1, 2, 3))),
        "usage of what was used": wrong(usage=lambda self, codes: torch.bincount(codes.flatten())[:-1]),
    },
    "test_codes_are_in_range": {
        "counted from one": giving(lambda codes: codes + 1),
        "none for what is far": wrong(
            choose=lambda self, z: torch.where(z.norm(dim=1) > 100, -1, Right.choose(self, z)),
            usage=lambda self, codes: count_codes(codes.clamp(min=0), 32),
        ),
    },
    "test_usage_counts_every_code": {
        "whether, not how often": wrong(usage=lambda self, codes: count_codes(codes, 32).clamp(max=1)),
        "of the first picture": wrong(usage=lambda self, codes: count_codes(codes[:1], 32)),
        "by one code too high": wrong(usage=lambda self, codes: count_codes(codes, 32).roll(1)),
    },
    "test_the_same_latents_give_the_same_codes": {"at random": wrong(choose=at_random)},
    "test_a_code_does_not_depend_on_neighbours_or_batch": {
        "the batch's mean taken off": wrong(choose=of_normed_batch),
        "positions counted by columns": wrong(codes=in_row_order_of_columns),
    },
    "test_codes_are_those_of_float32_in_bfloat16": {
        "distances in bfloat16": wrong(choose=lambda self, z: near(z, self.entries_ZD.to(z.dtype))),
        "float32 whatever comes": wrong(through=lambda self, z, q: straight_through(z.float(), q)),
    },
    "test_autocast_changes_no_code": {
        "distances by a product": wrong(choose=lambda self, z: near(z, self.entries_ZD)),
        "a loss by a product": wrong(
            loss=lambda self, z, q: (z - q).flatten().unsqueeze(0).mm((z - q).flatten().unsqueeze(1)).sum() / z.numel()
        ),
    },
    "test_codes_to_latents_to_codes": {
        "shrunk": wrong(
            lookup=lambda self, codes: Right.lookup(self, codes) / 3,
            through=lambda self, z, q: straight_through(z, q / 3),
        ),
        "one code never": wrong(choose=lambda self, z: Right.choose(self, z).clamp(max=30)),
        "two places exchanged": wrong(OfTwo, lookup=lambda self, codes: OfTwo.lookup(self, codes.flip(-1))),
    },
    "test_every_code_can_be_looked_up_in_every_place": {
        "the last code stands for nothing": wrong(
            lookup=lambda self, codes: Right.lookup(self, codes).masked_fill(codes[:, None] == 31, torch.nan)
        ),
        "height and width swapped": wrong(lookup=lambda self, codes: Right.lookup(self, codes.transpose(1, 2))),
        "positions counted by columns": wrong(
            lookup=lambda self, codes: Right.lookup(self, codes.transpose(1, 2).reshape(codes.shape))
        ),
    },
    "test_lookup_gives_the_quantized_latents": {
        "by one code too high": wrong(lookup=lambda self, codes: Right.lookup(self, (codes + 1) % 32)),
        "rounded to bfloat16": wrong(lookup=lambda self, codes: Right.lookup(self, codes).bfloat16().float()),
        "quantized latents that aren't": wrong(through=lambda self, z, q: z),
    },
    "test_the_gradient_reaches_the_latents": {
        "none": wrong(through=lambda self, z, q: q + 0 * z),
        "of all positions": wrong(through=mean_of_neighbours),
        "turned round": wrong(through=lambda self, z, q: q - (z - z.detach())),
    },
    "test_the_gradient_goes_straight_through": {
        "half of it": wrong(through=lambda self, z, q: q + (z - z.detach()) / 2),
    },
    "test_the_loss_and_its_gradient_are_finite": {
        "a logarithm of nothing": wrong(loss=lambda self, z, q: z.square().mean().log()),
        "a root at nothing": wrong(loss=lambda self, z, q: z.square().sum().sqrt()),
    },
    "test_a_step_of_training_keeps_the_contract": {
        "what is looked up doesn't learn": Learning,
        "no codes while training": wrong(
            codes=lambda self, z: Right.codes(self, z)[:, :1] if self.training else Right.codes(self, z)
        ),
    },
    "test_inference_leaves_the_state_alone": {"counts its calls": Counting},
    "test_the_state_carries_the_codes": {"entries in no file": Forgetful, "a mean in no file": Remembering},
    "test_a_model_encodes_and_decodes_with_it": {"no gradient": wrong(through=lambda self, z, q: q)},
    "test_a_model_in_bfloat16_encodes_and_decodes_with_it": {
        "float32 only": wrong(choose=lambda self, z: near(z, torch.randn(32, 6))),
    },
    "test_a_saved_tokenizer_gives_the_same_codes_and_pictures": {
        "entries in no file": Forgetful,
        "asks tensors for values when it is made": wrong(
            __init__=lambda self, config: (Right.__init__(self, config), self.entries_ZD.sum().item())[0]
        ),
    },
    "test_an_unknown_option_is_refused_with_a_sentence": {"options unread": Right},
}
SAID_BY_THE_HOST = {
    "a number that is a tensor": r"returned a Wrong whose codes_per_position is a Tensor; expected an int ≥ 1\.$",
    "no code at all": r"returned a Wrong whose codes_per_position is 0; expected an int ≥ 1\.$",
    "asks tensors for values when it is made": r"failed, calling its factory: RuntimeError: .*\bmeta tensors\.$",
}
"""What ``make_quantizer`` says of quantizers that it refuses itself, after their name: with this their law fails."""
CASES = [
    pytest.param(law, bad, SAID_BY_THE_HOST.get(what), id=f"{law}-{what}")
    for law, cases in WRONG.items()
    for what, bad in cases.items()
]


@pytest.fixture
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is expected, so hypothesis needn't shrink its example."""
    suite = chameleon_vq.testing.vector_quantizers
    monkeypatch.setattr(suite, "LAW", settings(suite.LAW, phases=[Phase.generate]))


def only_known_options(config: ChameleonVQVAEConfig) -> str | None:
    return "it has no options" if config.quantizer_options else None


def register(install_plugin: Install, factory: Any, **fields: Any) -> None:
    fields = {"api_version": HOOK_API_VERSION, "unsupported": only_known_options, **fields}
    spec = PluginSpec(name="acme", factory=factory, **fields)
    install_plugin(chameleon_vq_quantizers=hookimpl(lambda: [spec]))


def run_law(law: str, tmp_path: Path, suite: type[VectorQuantizerConformance] = Suite) -> None:
    """Run one test of the suite with the fixtures that pytest would pass."""
    test = getattr(suite(), law)
    config = suite().make_config()
    values: dict[str, Callable[[], Any]] = {
        "config": lambda: config,
        "quantizer": lambda: suite().make_quantizer(config),
        "tmp_path": lambda: tmp_path,
    }
    test(**{name: values[name]() for name in inspect.signature(test).parameters})


def fails(said_by_the_host: str | None) -> AbstractContextManager[Any]:
    """Expect that a law fails by itself, or because the host refuses the plugin with this sentence."""
    if said_by_the_host is None:
        return pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception))
    return pytest.raises(BrokenPluginError, match=rf"^the vector quantizer 'acme' of acme_vq \S+ {said_by_the_host}")


@pytest.mark.parametrize(("law", "bad", "said_by_the_host"), CASES)
def test_a_wrong_quantizer_fails_the_law_that_it_breaks(
    law: str, bad: Any, said_by_the_host: str | None, install_plugin: Install, no_shrinking: None, tmp_path: Path
) -> None:
    fields = {"unsupported": lambda config: None} if bad is Right else {}
    register(install_plugin, bad, **fields)
    with fails(said_by_the_host):
        run_law(law, tmp_path)


LAWS = [name for name in vars(VectorQuantizerConformance) if name.startswith("test_")]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("right", [Right, OfTwo])
def test_a_right_quantizer_keeps_every_law(right: Any, law: str, install_plugin: Install, tmp_path: Path) -> None:
    """Otherwise the wrong quantizers might fail for another reason."""
    register(install_plugin, right)
    run_law(law, tmp_path)


def test_every_law_has_a_wrong_quantizer_that_fails_it() -> None:
    # The three that need more than a quantizer have tests of their own below.
    own = {
        "test_the_spec_states_this_version_of_the_hooks",
        "test_it_can_run_here_and_serves_a_configuration",
        "test_what_may_be_left_out",
    }
    assert set(LAWS) == WRONG.keys() | own


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"unsupported": lambda config: "this can't be done"}, id="every configuration"),
        pytest.param({"unavailable": lambda: "no such device"}, id="this machine"),
    ],
)
def test_a_quantizer_that_refuses_everything_fails(
    fields: dict[str, Any], install_plugin: Install, tmp_path: Path
) -> None:
    register(install_plugin, Right, **fields)
    with pytest.raises(AssertionError):
        run_law("test_it_can_run_here_and_serves_a_configuration", tmp_path)


@pytest.mark.parametrize(
    ("reason", "said_by_the_host"),
    [
        ("", "returned an empty str from unsupported; expected a sentence"),
        (" ", "returned an empty str from unsupported; expected a sentence"),
        ("no", None),
        (5, "returned 5 from unsupported; expected a sentence"),
        (False, "returned False from unsupported; expected a sentence"),
    ],
)
def test_a_refusal_that_is_no_sentence_fails(
    reason: Any, said_by_the_host: str | None, install_plugin: Install, tmp_path: Path
) -> None:
    register(install_plugin, Right, unsupported=lambda config: reason if config.quantizer_options else None)
    with fails(said_by_the_host):
        run_law("test_an_unknown_option_is_refused_with_a_sentence", tmp_path)


def test_another_version_of_the_hooks_fails(install_plugin: Install, tmp_path: Path) -> None:
    register(install_plugin, Right, api_version=999)
    with pytest.warns(UserWarning, match="was written for version 999"), pytest.raises(ImportError, match="999"):
        run_law("test_the_spec_states_this_version_of_the_hooks", tmp_path)


class Excused(VectorQuantizerConformance):
    """Leaves out that codes come back."""

    name = "acme"
    not_applicable: ClassVar[dict[str, str]] = {"test_codes_to_latents_to_codes": "they needn't"}


def test_only_several_codes_per_position_excuse_codes_that_do_not_come_back(
    install_plugin: Install, tmp_path: Path
) -> None:
    register(install_plugin, OfTwo)
    run_law("test_what_may_be_left_out", tmp_path, Excused)
    register(install_plugin, Right)
    with pytest.raises(AssertionError, match="with one code per position every code comes back"):
        run_law("test_what_may_be_left_out", tmp_path, Excused)


class TestWeakening:
    """A suite can't lose a test without a stated reason."""

    def test_overriding_a_standard_test_is_an_error(self) -> None:
        with pytest.raises(TypeError, match=r"Weak replaces test_shapes_and_dtypes\."):

            class Weak(VectorQuantizerConformance):
                def test_shapes_and_dtypes(self) -> None:  # type: ignore[override]
                    """Nothing."""

    def test_deleting_a_standard_test_is_an_error(self) -> None:
        with pytest.raises(TypeError, match=r"replaces .* naming it in not_applicable with the reason"):

            class Weak(VectorQuantizerConformance):
                test_shapes_and_dtypes = None  # type: ignore[assignment]

    def test_deleting_by_a_mixin_or_in_a_grandchild_is_an_error(self) -> None:
        class Mixin:
            test_shapes_and_dtypes = None

        with pytest.raises(TypeError, match="replaces"):
            type("Weak", (Mixin, VectorQuantizerConformance), {"name": "acme"})
        with pytest.raises(TypeError, match="replaces"):
            type("Weak", (Suite,), {"test_shapes_and_dtypes": None})

    def test_leaving_out_takes_a_known_name_and_a_reason(self) -> None:
        with pytest.raises(TypeError, match="leaves out what isn't a standard test: test_shape"):
            type("Weak", (VectorQuantizerConformance,), {"not_applicable": {"test_shape": "why"}})
        for reason in ("", "  ", None):
            with pytest.raises(TypeError, match="gives no reason to leave out test_shapes_and_dtypes"):
                type("Weak", (VectorQuantizerConformance,), {"not_applicable": {"test_shapes_and_dtypes": reason}})

    def test_more_tests_are_welcome(self) -> None:
        type("More", (VectorQuantizerConformance,), {"test_it_is_fast": lambda self: None})


def test_what_is_left_out_is_skipped_with_its_reason() -> None:
    fixture = Excused._leave_out._get_wrapped_function()  # type: ignore[attr-defined]
    with pytest.raises(pytest.skip.Exception, match="they needn't"):
        fixture(Excused(), SimpleNamespace(node=SimpleNamespace(originalname="test_codes_to_latents_to_codes")))
    fixture(Excused(), SimpleNamespace(node=SimpleNamespace(originalname="test_codes_are_in_range")))
