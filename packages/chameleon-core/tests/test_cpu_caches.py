"""Products of a few rows on a CPU: by parts of a weight, whatever the numbers of rows and of parts."""

from __future__ import annotations

import pytest
import torch

from chameleon_core import _cpu_caches
from chameleon_core._cpu_caches import blocks_of, product_of_blocks, reading_pays


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8])
@pytest.mark.parametrize(("block", "parts"), [(2**17, 1), (40, 4), (1, 19)])
def test_parts_give_the_whole_product(rows: int, block: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpu_caches, "BLOCK_ELEMENTS", block)
    weight_OF, inputs_MF = torch.randn(19, 8), torch.randn(rows, 8)
    blocks = blocks_of(weight_OF)
    assert len(blocks) == parts
    torch.testing.assert_close(product_of_blocks(inputs_MF, blocks), inputs_MF @ weight_OF.t())


def test_only_small_float32_weights_are_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reading_pays(torch.ones(2, 3))
    assert not reading_pays(torch.ones(2, 3, dtype=torch.bfloat16))
    assert not reading_pays(torch.ones(2, 3, device="meta"))
    monkeypatch.setattr(_cpu_caches, "MAX_ELEMENTS", 5)
    assert not reading_pays(torch.ones(2, 3))
