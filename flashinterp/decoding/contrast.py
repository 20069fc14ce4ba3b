"""The contrast of neurons for words, and what it would be if the neurons were no special basis (METHOD 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, expm1, log1p, sqrt
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.decoding.head_statistics import HeadStatistics, factor_of
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.decoding.plan import DecodePlan
from flashinterp.errors import TokenError
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import Pole
from flashinterp.tokens import Token, Vocabulary

Sign = Pole | Literal["both"]


class Sought(NamedTuple):
    """One thing that is looked for: a token, or the mean of several.

    Attributes:
        label: the token's text; of several, ``mean of`` and their texts.
        ids: of the tokens.
    """

    label: str
    ids: tuple[int, ...]

    @classmethod
    def of(cls, vocabulary: Vocabulary, word: str | int | Token) -> list[Sought]:
        """A word that is one token; or of a name of several the mean of its pieces, then each piece.

        Raises:
            TokenError: the text has no token, or has pieces that are not words, as bytes.
        """
        try:
            token = vocabulary.resolve(word)
        except TokenError:
            pieces = vocabulary.piece_ids(word) if isinstance(word, str) else []
            if len(pieces) < 2 or vocabulary.excluded[pieces].any():
                raise
            texts = [vocabulary.surfaces[i] for i in pieces]
            whole = cls("mean of " + " + ".join(texts), tuple(pieces))
            return [whole, *(cls(text, (i,)) for text, i in zip(texts, pieces, strict=True))]
        return [cls(token.text, (token.id,))]


@dataclass(frozen=True)
class WordRows:
    """What the search needs of the head, on the device.

    Attributes:
        directions: [T, d] U_t − μ of what is sought; of several tokens the mean.
        factor: [d, d] of the covariance.
        ids: of the tokens of each.
        rows: [V, d] the head as it is stored.
    """

    directions: Tensor
    factor: Tensor
    ids: tuple[tuple[int, ...], ...]
    rows: Tensor

    @classmethod
    def of(cls, source: Checkpoint, statistics: HeadStatistics, wanted: Sequence[Sought], device: str) -> WordRows:
        rows = source.head()
        means = torch.stack([rows[list(one.ids)].double().mean(dim=0) for one in wanted])
        centred = means - torch.from_numpy(np.array(statistics.mean))
        factor = torch.from_numpy(np.array(statistics.factor))
        ids = tuple(one.ids for one in wanted)
        return cls(centred.to(device, torch.float32), factor.to(device, torch.float32), ids, rows)

    def z(self, rows: Tensor) -> Tensor:
        """[F, T] of vectors [F, d]; 0 for a vector whose logits are all the same."""
        spread = torch.linalg.vector_norm(rows @ self.factor, dim=1, keepdim=True)
        return torch.where(spread > 0, (rows @ self.directions.T) / spread, 0.0)


def contrast_of(z: Tensor) -> Tensor:
    """[F, T] of one layer's z [F, T]; 0 where all of a word's are 0."""
    # About zero, because the sign of a gated neuron is arbitrary: turning one round must change its own sign only.
    deviation = z.double().square().mean(dim=0).sqrt().float()
    return torch.where(deviation > 0, z / deviation, 0.0)


def on_pole(contrast: Tensor, pole: Sign) -> Tensor:
    """A contrast as it counts on the pole: of both, its size."""
    return contrast.abs() if pole == "both" else contrast if pole == "+" else -contrast


def search_p(contrast: float, searched: int, poles: int = 2) -> float:
    """How often the largest contrast of so many neurons is at least this one, if each is drawn from a normal.

    Args:
        contrast: the contrast, on the pole where it is positive.
        searched: how many neurons.
        poles: 2 where either sign would have counted, else 1.
    """
    one = poles * 0.5 * erfc(contrast / sqrt(2))
    return 1.0 if one >= 1 else -expm1(searched * log1p(-one))


@dataclass(frozen=True)
class Null:
    """Neurons that are no special basis: each layer's vectors drawn anew with the layer's own second moment.

    That is what a random rotation of a layer's neurons gives. Nothing is assumed of how contrasts are distributed.

    Attributes:
        draws: how often all neurons are drawn; p is at least 1 / (1 + draws).
        seed: of the draws.
    """

    draws: int = 99
    seed: int = 0

    def draw(self, source: Checkpoint, plan: DecodePlan, words: WordRows, pole: Sign) -> NDArray[np.float32]:
        """[draws, T] the largest contrast of all neurons on the pole, for each word."""
        generator = torch.Generator(plan.device).manual_seed(self.seed)
        largest = torch.full((self.draws, len(words.ids)), -torch.inf, device=plan.device)
        for layer in plan.layers:
            blocks = source.layout.roster.of_layers([layer]).blocks
            rows = torch.cat([lens_rows(source, plan.lens, block).to(plan.device) for block in blocks])
            moment = factor_of((rows.double().T @ rows.double()).cpu() / len(rows)).to(plan.device, torch.float32)
            for draw in range(self.draws):
                normal = torch.randn(len(rows), len(moment), generator=generator, device=plan.device)
                contrast = on_pole(contrast_of(words.z(normal @ moment.T)), pole)
                largest[draw] = torch.maximum(largest[draw], contrast.amax(dim=0))
        found: NDArray[np.float32] = largest.cpu().numpy()
        return found
