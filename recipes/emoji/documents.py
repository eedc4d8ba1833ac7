"""Training documents, assembled from stored codes during training: each is a function of the seed and its index.

Pre-training documents are streams of which everything is learned: a caption after a picture, a picture after a caption,
or both alternating. Instruction documents are a request, the separator and an answer, of which only the answer is
learned. A tenth of the drawings have no prompt, because guidance needs unconditional drawing.

Shapes: T ids of a document, N codes of a picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from chameleon_core.evaluation.embedded_requests import STYLES, WHAT, is_withheld
from chameleon_core.training import TokenDataset, TokenDocument
from chameleon_text import TextTokenizer, Vocabulary

from . import prompts
from .compositions import is_shape
from .prompts import Composition

Form = Literal["pretraining", "instructions", "drawing"]
"""``drawing`` is the last stage of fine-tuning: instructions with more drawings among them."""
UNPROMPTED = 0.1
"""The share of drawings without a prompt."""
DISTORTED = 0.85
"""The share of the things to be named that are distorted."""
QUESTION_FIRST = 0.3


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each kind of picture is used, independent of its number, and for what."""

    kinds: dict[str, float]
    drawn: dict[str, float]
    """The share of each kind that is drawn, for kinds that are drawn; most of the rest is named."""
    unmoved: dict[str, float]
    """The share of drawings of one thing that are unchanged; the others are moved, scaled and mirrored."""
    interleaved: float = 0.08
    """The share of single things and shapes that are followed by another one."""


MIXES: dict[Form, Mix] = {
    "pretraining": Mix(
        kinds={"single": 0.55, "shape": 0.1, "ground": 0.12, "coloured": 0.08, "scene": 0.15},
        drawn=dict.fromkeys(("single", "shape", "ground", "coloured", "scene"), 0.5),
        unmoved={"single": 0.6, "shape": 0.6},
    ),
    # After the pre-training, drawings are memorised but names are not, and learning one slows the other. Two thirds are
    # names; the drawings that suffered recover afterwards, in a quarter of the steps. Most drawings are unchanged,
    # because a request names no place; shapes are also moved, so that colour and shape aren't learned as one.
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
    """Writes documents about pictures whose codes are in ``store``."""

    def __init__(self, store: TokenDataset, tokenizer: TextTokenizer) -> None:
        self._store = store
        self._vocabulary = Vocabulary.from_token_ids(tokenizer.token_ids, special_ids=tokenizer.special_ids)
        self._text = lru_cache(maxsize=1 << 16)(lambda text: tuple(tokenizer.encode(text)))

    def picture(self, shown: Composition) -> list[int]:
        """Return the ids of a picture, between begin-image and end-image."""
        codes_N: npt.NDArray[np.uint16] = self._store.find(shown.key).ids
        names = self._vocabulary
        return [names.begin_image_id, *names.code_to_id[codes_N].tolist(), names.end_image_id]

    def stream(self, key: str, *parts: str | Composition) -> TokenDocument:
        """Return a document of these parts, all of which is learned."""
        names = self._vocabulary
        return TokenDocument.of(key, [names.bos_id, *self._ids(parts), names.eos_id])

    def answered(
        self, key: str, question: Sequence[str | Composition], answer: Sequence[str | Composition]
    ) -> TokenDocument:
        """Return a document of a user's turn and the answer; only the answer is learned."""
        names = self._vocabulary
        ids = [names.bos_id, *self._ids(question), names.separator_id, *self._ids(answer), names.eos_id]
        return TokenDocument.with_answer(key, ids, separator_id=names.separator_id)

    def _ids(self, parts: Sequence[str | Composition]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids.extend(self._text(part) if isinstance(part, str) else self.picture(part))
        return ids


class EmojiDocuments:
    """``length`` documents about planned pictures, made on access.

    A document depends only on the seed and its index. With as many documents as a run takes, none is repeated, although
    their pictures are.
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
            raise IndexError(f"Document {index} doesn't exist: the indices are 0 to {self._length - 1}.")
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
        if views and random.random() < DISTORTED:
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
        second = self._second(first, random)
        if second is None:
            return self._drawing(key, first, random)
        if self._form == "drawing":
            # Earlier stages move second pictures; from here they are drawn unchanged, like single ones.
            second = self._placed(second, random)
        if random.random() < UNPROMPTED:
            return self._writer.stream(key, first, second)
        before, after = prompts.pair(first, second, random)
        if self._form == "pretraining":
            return self._writer.stream(key, before, first, after, second)
        return self._writer.answered(key, [before, first, after], [second])

    def _placed(self, shown: Composition, random: np.random.Generator) -> Composition:
        """Return the composition unchanged or as planned, at random."""
        unmoved = self._mix.unmoved.get(kind_of(shown), 0.0)
        return replace(shown, variant=0) if unmoved and random.random() < unmoved else shown

    def _second(self, first: Composition, random: np.random.Generator) -> Composition | None:
        """Return another thing of the same style that isn't withheld together with the first, or None."""
        choices = self._of_style[first.style]
        for _ in range(10):
            second = _one_of(choices, random)
            if second.name != first.name and not is_withheld(first.name, second.name):
                return second
        return None


def kind_of(shown: Composition) -> str:
    """Return the kind of a composition in a ``Mix``."""
    if shown.arrangement is not None:
        return "scene"
    if shown.ground is not None:
        return "ground"
    if shown.colour is not None:
        return "coloured"
    if shown.style not in STYLES:
        return "named"
    return "shape" if is_shape(shown.name) else "single"


def held_out_documents(withheld: Sequence[Composition], writer: DocumentWriter, *, form: Form) -> list[TokenDocument]:
    """Return a caption and a drawing of each withheld picture, in one form, to measure during training."""
    documents = []
    for shown in withheld:
        if form == "pretraining":
            documents.append(writer.stream(f"caption {shown.key}", shown, shown.caption))
            documents.append(writer.stream(f"draw {shown.key}", shown.caption, shown))
        else:
            documents.append(writer.answered(f"caption {shown.key}", [shown, WHAT], [shown.phrase]))
            documents.append(writer.answered(f"draw {shown.key}", [shown.caption], [shown]))
    return documents


def _one_of(choices: Sequence[Composition], random: np.random.Generator) -> Composition:
    return choices[int(random.integers(len(choices)))]
