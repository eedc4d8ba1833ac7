"""Documents to train on, put together from stored codes while training: each is a function of the seed and its index.

Pre-training documents are streams, all of which is learned: a caption after a picture, a picture after a caption, or
both alternating. Instruction documents are a request, the separator and an answer, of which only the answer is learned.
In a tenth of the drawings the words are left out, so that a picture can be drawn without them: what guidance needs.

Shapes: T ids of a document, K codes of a picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from chameleon_core.training import TokenDataset, TokenDocument
from chameleon_text import TextTokenizer, Vocabulary

from . import prompts
from .compositions import is_shape
from .prompts import Composition
from .splits import scene_is_withheld

Form = Literal["pretraining", "instructions", "drawing"]
"""``drawing`` is instructions too, with more drawings among them: what fine-tuning ends with."""
UNPROMPTED = 0.1
"""The share of drawings without a prompt."""
SEEN_OTHERWISE = 0.85
"""The share of the things to be named that are turned, stretched and in another light."""
QUESTION_FIRST = 0.3


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each kind of picture is taken, whatever their number, and what is done with it."""

    kinds: dict[str, float]
    drawn: dict[str, float]
    """The share of each kind that is drawn, where it is at all; most of the rest is named."""
    unmoved: dict[str, float]
    """The share of the drawings of one thing that show it as it is; the others are moved, sized and mirrored."""
    interleaved: float = 0.08
    """The share of the single things and shapes that another one follows."""


MIXES: dict[Form, Mix] = {
    "pretraining": Mix(
        kinds={"single": 0.55, "shape": 0.1, "ground": 0.12, "coloured": 0.08, "scene": 0.15},
        drawn=dict.fromkeys(("single", "shape", "ground", "coloured", "scene"), 0.5),
        unmoved={"single": 0.6, "shape": 0.6},
    ),
    # Drawings are known by heart after the pre-training, names are not, and learning one slows the other: two thirds
    # are names, and the drawings that suffered come back after them, in a quarter of the steps. Most of what is drawn
    # is drawn as it is, for a request names no place; shapes also elsewhere, so that colour and shape aren't learned
    # as one.
    "instructions": Mix(
        kinds={"single": 0.6, "named": 0.15, "shape": 0.1, "ground": 0.03, "coloured": 0.07, "scene": 0.05},
        drawn={"single": 0.15, "shape": 0.75, "ground": 0.75, "coloured": 0.75, "scene": 0.75},
        unmoved={"single": 1.0, "shape": 0.8},
    ),
    "drawing": Mix(
        kinds={"single": 0.5, "named": 0.1, "shape": 0.12, "ground": 0.08, "coloured": 0.13, "scene": 0.07},
        drawn={"single": 0.35, "shape": 0.7, "ground": 0.75, "coloured": 0.75, "scene": 0.75},
        unmoved={"single": 1.0, "shape": 0.8},
        interleaved=0.15,
    ),
}


class DocumentWriter:
    """Writes the ids of documents about pictures whose codes are in ``store``."""

    def __init__(self, store: TokenDataset, tokenizer: TextTokenizer) -> None:
        self._store = store
        self._vocabulary = Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids)
        self._text = lru_cache(maxsize=1 << 16)(lambda text: tuple(tokenizer.encode(text)))

    def picture(self, shown: Composition) -> list[int]:
        """Begin-image, the picture's ids and end-image."""
        codes_K: npt.NDArray[np.uint16] = self._store.find(shown.key).ids
        names = self._vocabulary
        return [names.begin_image_id, *names.code_to_id[codes_K].tolist(), names.end_image_id]

    def stream(self, key: str, *parts: str | Composition) -> TokenDocument:
        """All of these after each other, all learned."""
        names = self._vocabulary
        return TokenDocument.of(key, [names.bos_id, *self._ids(parts), names.eos_id])

    def answered(
        self, key: str, question: Sequence[str | Composition], answer: Sequence[str | Composition]
    ) -> TokenDocument:
        """A user's turn and the answer, which alone is learned."""
        names = self._vocabulary
        ids = [names.bos_id, *self._ids(question), names.separator_id, *self._ids(answer), names.eos_id]
        return TokenDocument.with_answer(key, ids, separator_id=names.separator_id)

    def _ids(self, parts: Sequence[str | Composition]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids.extend(self._text(part) if isinstance(part, str) else self.picture(part))
        return ids


class EmojiDocuments:
    """``length`` documents about planned pictures, made when they are asked for.

    A document depends on the seed and its index alone. With as many of them as a run takes, none comes twice, though
    their pictures do.
    """

    def __init__(
        self, planned: Sequence[Composition], writer: DocumentWriter, *, form: Form, length: int, seed: int = 0
    ) -> None:
        self._of_kind: defaultdict[str, list[Composition]] = defaultdict(list)
        self._of_style: defaultdict[str, list[Composition]] = defaultdict(list)
        self._views: defaultdict[tuple[str, str], list[Composition]] = defaultdict(list)
        for shown in planned:
            kind = kind_of(shown)
            if shown.view and kind == "single":
                self._views[shown.style, shown.name].append(shown)
                continue
            self._of_kind[kind].append(shown)
            if kind in ("single", "shape"):
                self._of_style[shown.style].append(shown)
        self._mix = MIXES[form]
        self._kinds = [kind for kind in self._mix.kinds if kind in self._of_kind]
        shares = np.array([self._mix.kinds[kind] for kind in self._kinds])
        self._shares = shares / shares.sum()
        self._writer = writer
        self._form: Form = form
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int, /) -> TokenDocument:
        if not 0 <= index < self._length:
            raise IndexError(f"there are {self._length} documents, none at {index}.")
        random = np.random.default_rng((self._seed, get_args(Form).index(self._form), index))
        kind = self._kinds[int(random.choice(len(self._kinds), p=self._shares))]
        shown = _one_of(self._of_kind[kind], random)
        key = f"{self._form} {index}"
        task = random.random()
        if task < self._mix.interleaved and kind in ("single", "shape"):
            return self._interleaved(key, shown, random)
        if kind in self._mix.drawn and task < self._mix.interleaved + self._mix.drawn[kind]:
            return self._drawing(key, shown, random)
        return self._captioning(key, shown, random)

    def _captioning(self, key: str, shown: Composition, random: np.random.Generator) -> TokenDocument:
        views = self._views.get((shown.style, shown.name)) if kind_of(shown) == "single" else None
        if views and random.random() < SEEN_OTHERWISE:
            shown = _one_of(views, random)
        if self._form == "pretraining":
            return self._writer.stream(key, shown, prompts.caption(shown, random))
        question, answer = prompts.ask(shown, random)
        asked = (question, shown) if random.random() < QUESTION_FIRST else (shown, question)
        return self._writer.answered(key, asked, [answer])

    def _drawing(self, key: str, shown: Composition, random: np.random.Generator) -> TokenDocument:
        shown = self._placed(shown, random)
        if random.random() < UNPROMPTED:
            return self._writer.stream(key, shown)
        if self._form == "pretraining":
            return self._writer.stream(key, prompts.caption(shown, random), shown)
        return self._writer.answered(key, [prompts.request(shown, random)], [shown])

    def _interleaved(self, key: str, first: Composition, random: np.random.Generator) -> TokenDocument:
        second = self._beside(first, random)
        if second is None:
            return self._drawing(key, first, random)
        if self._form == "drawing":
            # What is met anywhere until then is to be drawn as it is, as what stands alone is.
            second = self._placed(second, random)
        if random.random() < UNPROMPTED:
            return self._writer.stream(key, first, second)
        before, after = prompts.pair(first, second, random)
        if self._form == "pretraining":
            return self._writer.stream(key, before, first, after, second)
        return self._writer.answered(key, [before, first, after], [second])

    def _placed(self, shown: Composition, random: np.random.Generator) -> Composition:
        """As it is, or where it was planned to be."""
        unmoved = self._mix.unmoved.get(kind_of(shown), 0.0)
        return replace(shown, variant=0) if unmoved and random.random() < unmoved else shown

    def _beside(self, first: Composition, random: np.random.Generator) -> Composition | None:
        """Another thing of the same style, not withheld beside the first."""
        choices = self._of_style[first.style]
        for _ in range(10):
            second = _one_of(choices, random)
            if second.name != first.name and not scene_is_withheld(first.name, second.name):
                return second
        return None


def kind_of(shown: Composition) -> str:
    """Which kind of a ``Mix`` a composition belongs to."""
    if shown.arrangement is not None:
        return "scene"
    if shown.ground is not None:
        return "ground"
    if shown.colour is not None:
        return "coloured"
    if shown.style not in prompts.STYLES:
        return "named"
    return "shape" if is_shape(shown.name) else "single"


def held_out_documents(withheld: Sequence[Composition], writer: DocumentWriter, *, form: Form) -> list[TokenDocument]:
    """A caption and a drawing of each withheld picture, in one form: to be measured while training."""
    documents = []
    for shown in withheld:
        if form == "pretraining":
            documents.append(writer.stream(f"caption {shown.key}", shown, shown.caption))
            documents.append(writer.stream(f"draw {shown.key}", shown.caption, shown))
        else:
            documents.append(writer.answered(f"caption {shown.key}", [shown, prompts.WHAT], [shown.phrase]))
            documents.append(writer.answered(f"draw {shown.key}", [shown.caption], [shown]))
    return documents


def _one_of(choices: Sequence[Composition], random: np.random.Generator) -> Composition:
    return choices[int(random.integers(len(choices)))]
