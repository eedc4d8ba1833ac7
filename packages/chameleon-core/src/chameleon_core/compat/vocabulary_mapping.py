"""``model.model.vocabulary_mapping``: which ids are codes of pictures, under the names of ``transformers``.

Shapes: Z codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..layout import TokenLayout


@dataclass(frozen=True, slots=True)
class VocabularyMapping:
    """A ``TokenLayout`` as ``transformers`` shows it."""

    layout: TokenLayout
    """What it shows."""

    @property
    def image_token_id(self) -> int:
        """The id of a picture's placeholder."""
        return self.layout.placeholder_id

    @property
    def image_tokens(self) -> list[int]:
        """The ids of picture codes, in their order."""
        return sorted(self.layout.picture_ids)

    @property
    def bpe2img(self) -> dict[int, int]:
        """The code of each picture id."""
        return {id_: self.layout.codes_by_id[id_] for id_ in self.image_tokens}

    @property
    def img2bpe(self) -> dict[int, int]:
        """The id of each picture code."""
        return {code: id_ for id_, code in self.bpe2img.items()}

    @property
    def img2bpe_mapping_tensor(self) -> Tensor:
        """The id of each code, int64 [Z]."""
        return self.layout.code_to_id_Z

    def convert_img2bpe(self, img_batch: Tensor) -> Tensor:
        """Return the ids of picture codes, int64 of the same shape."""
        return self.layout.code_to_id_Z.to(img_batch.device)[img_batch]
