"""Old names of what moved or was renamed: they work for one release, with a warning that says the new one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

import chameleon_core  # noqa: F401 - installs the finder

(MODULES,) = (finder.moved for finder in sys.meta_path if "chameleon_core.layers" in getattr(finder, "moved", ()))
NAMES = {
    "pipeline.events.RowReader": "pipeline.row_reader.RowReader",
    "formats.safetensors_files.deal_out": "formats.safetensors_files.split_into_shards",
    "generation.repacked_head.MOST_ROWS": "generation.repacked_head.MAX_ROWS",
    "generation.repacked_head.PIECES": "generation.repacked_head.NUM_GROUPS",
    "generation.repacked_head.SMALLEST": "generation.repacked_head.MIN_ELEMENTS",
    "generation.repacked_head.TurnedHead": "generation.repacked_head.RepackedHead",
    "generation.repacked_head.TurnedRows": "generation.repacked_head.RepackedRows",
    "generation.repacked_head.WIDEST": "generation.repacked_head.MAX_WIDTH",
    "model.draw_weight": "model.transformer.init_weight",
    "pipeline.CAPTION_QUESTION": "pipeline.short_forms.CAPTION_QUESTION",
    "pipeline.PREPROCESSOR_FILE": "pipeline.chameleon.PREPROCESSOR_FILE",
    "protocols.emoji_package": "optional_packages.emoji_package",
    "quantization.OUTPUT_LAYER": "checkpoints.quantization_plan.OUTPUT_LAYER",
    "quantization.naming": "checkpoints.quantization_plan.name_layer_in_errors",
    "training.errors.train_extra": "training.errors.requires_extra",
    "checkpoints.GENERATION_FILE": "formats.GENERATION_FILE",
    "model.conditional_generation.IGNORED_LABEL": "model.IGNORE_INDEX",
    "model.layers.Pass": "model.attention_context.AttentionContext",
    "model.rope.Rotation": "model.rope.RotaryEmbedding",
    "model.rope.rotate": "model.rope.apply_rotary",
    "model.rope.rotation": "model.rope.rotary_embedding",
    "quantization.QuantizationPlan": "checkpoints.quantization_plan.QuantizationPlan",
    "quantization.RECORD": "checkpoints.quantization_plan.QUANTIZATION_RECORD",
    "quantization.read_plan": "checkpoints.quantization_plan.read_plan",
    "protocols.load_processor": "optional_packages.load_processor",
    "registry.FORMATS_HOOK": "registry.CHECKPOINT_FORMATS_HOOK",
    "training.DocumentOrder": "training.BatchOrder",
    "training.order.DocumentOrder": "training.BatchOrder",
}


@pytest.fixture(autouse=True)
def _as_if_never_imported() -> Iterator[None]:
    before = dict(sys.modules)
    for name in MODULES:
        sys.modules.pop(name, None)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.mark.parametrize("old", MODULES)
def test_a_module_that_moved_is_found_under_its_old_name(old: str) -> None:
    new = MODULES[old]
    with pytest.warns(DeprecationWarning, match=f"{old} is {new} now"):
        module = importlib.import_module(old)
    moved = importlib.import_module(new)
    assert all(getattr(module, name) is value for name, value in vars(moved).items() if not name.startswith("_"))


def public(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"chameleon_core.{module}"), name)


@pytest.mark.parametrize("old", NAMES)
def test_a_name_that_changed_is_found_under_its_old_name(old: str) -> None:
    with pytest.warns(DeprecationWarning, match="works until the next release"):
        found = public(old)
    assert found is public(NAMES[old])


def test_a_step_of_an_order_is_its_batch() -> None:
    from chameleon_core.training import BatchOrder

    order = BatchOrder(5, batch_size=2, seed=0)
    with pytest.warns(DeprecationWarning, match="step is batch now"):
        assert order.step(3) == order.batch(3)
