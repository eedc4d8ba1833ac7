"""A folder in Meta's layout, converted, loads in transformers with the logits of Meta's mathematics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.testing import make_vocabulary
from chameleon_core.testing.meta_release import Release, logits_of, make_ranks, write_release

RELEASES = {
    "one rank": Release(),
    "two ranks, fused": Release(ranks=2, fused=True),
    "four ranks, swin_norm, grouped": Release(ranks=4, swin_norm=True, n_heads=8, n_kv_heads=4, dim=64),
}


@pytest.mark.parametrize("name", RELEASES)
def test_transformers_gives_the_logits_of_metas_mathematics(name: str, tmp_path: Path) -> None:
    release = RELEASES[name]
    ranks = make_ranks(release)
    vocab = {"<reserved08707>" if name == "<image>" else name: id_ for name, id_ in make_vocabulary().items()}
    write_release(tmp_path / "meta", release, ranks, tokenizer={"model": {"vocab": vocab}}, root=True)
    convert_checkpoint(tmp_path / "meta", tmp_path / "hf")
    peer, info = transformers.ChameleonForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True, dtype=torch.float32
    )
    assert not info["unexpected_keys"]
    assert all(".vqmodel." in name for name in info["missing_keys"]), "there is no image tokenizer in the folder"
    ids_T = torch.arange(20) * 3 % release.vocab_size
    with torch.no_grad():
        found_TV = peer.eval()(input_ids=ids_T[None]).logits[0]
    expected_TV = logits_of(ranks, release, ids_T)
    # transformers masks the codes of pictures.
    text = found_TV > torch.finfo(torch.float32).min
    assert text.any()
    torch.testing.assert_close(found_TV[text], expected_TV[text], rtol=0, atol=1e-5)
