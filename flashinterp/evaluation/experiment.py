"""What the claims of one run are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.profiles import Profile
from flashinterp.evaluation.prompts import PromptSet
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.tokens import Token


@dataclass(frozen=True)
class Experiment:
    """A model, the texts to run it on, and how much.

    Attributes:
        model, checkpoint: the same weights, live and as files.
        prompts: the texts, selection and held-out apart.
        profile: how much.
        seed: root of every random stream, each derived by name.
    """

    model: Any
    checkpoint: Checkpoint
    prompts: PromptSet
    profile: Profile
    seed: int

    @property
    def tokenizer(self) -> Any:
        return self.checkpoint.tokenizer

    @property
    def selection(self) -> tuple[str, ...]:
        """The natural text on which doses and scales are measured: this profile's prompts, and the contexts."""
        return (*self.prompts.selection[: self.profile.selection], *self.prompts.contexts_selection)

    @property
    def heldout(self) -> tuple[str, ...]:
        """The prompts on which effects are measured."""
        return self.prompts.heldout[: self.profile.prompts]

    def rng(self, name: str) -> np.random.Generator:
        """The random stream of a name."""
        return np.random.default_rng([self.seed, crc32(name.encode())])

    def token(self, claim: Claim) -> Token:
        return self.checkpoint.vocabulary.resolve(claim.token)

    def words(self) -> list[int]:
        """Ids that look like words; all that are not excluded where a vocabulary has hardly any."""
        vocabulary = self.checkpoint.vocabulary
        words = vocabulary.words()
        return words if len(words) >= 100 else np.flatnonzero(~vocabulary.excluded).tolist()

    def draw_words(self, name: str, n: int, but: set[int]) -> list[int]:
        """Up to n words, drawn by name without replacement, none of them among the ids that are left out."""
        pool = [i for i in self.words() if i not in but]
        return [int(i) for i in self.rng(name).choice(pool, size=min(n, len(pool)), replace=False)]
