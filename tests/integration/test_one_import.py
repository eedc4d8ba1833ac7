"""One import for everything that belongs to the model, as in ``transformers``."""

from __future__ import annotations

import chameleon_core
import chameleon_text
import chameleon_vq


def test_core_hands_on_the_classes_of_its_siblings() -> None:
    from chameleon_core import (
        ChameleonImageProcessor,
        ChameleonImageProcessorPil,
        ChameleonProcessor,
        ChameleonVQVAE,
        ChameleonVQVAEConfig,
        ImageTokenizer,
        TextTokenizer,
    )

    assert (ChameleonProcessor, TextTokenizer) == (chameleon_text.ChameleonProcessor, chameleon_text.TextTokenizer)
    assert ChameleonVQVAE is chameleon_vq.ChameleonVQVAE
    assert ChameleonVQVAEConfig is chameleon_vq.ChameleonVQVAEConfig
    assert ImageTokenizer is chameleon_vq.ImageTokenizer
    assert ChameleonImageProcessor is ChameleonImageProcessorPil is chameleon_vq.ChameleonImageProcessor
    assert chameleon_core.ChameleonImageProcessorFast is ChameleonImageProcessor
    assert set(chameleon_core._OPTIONAL) <= set(dir(chameleon_core))
    assert not set(chameleon_core._OPTIONAL) & set(chameleon_core.__all__)
