"""`NeuronMap`: the saved result of a decode, and the questions that one asks of it.

A map is self-contained: it carries its words, its lens and the digests of the weights that it was made
from, so that `find` and `words` need neither the model nor its tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.map_file import ARRAYS, MapParts, read_map, write_map
from flashinterp.decoding.token_index import DEPTH, PoleIndex
from flashinterp.errors import MapError, NeuronError
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import POLES, NeuronId, Pole
from flashinterp.provenance.registry import record
from flashinterp.tokens import Token, Vocabulary

if TYPE_CHECKING:
    from flashinterp.models.checkpoint import Checkpoint

_BELOW_CAP = 1 - 1e-6  # a float32 logit at its soft-cap has lost how far above it was
_INDEX_ROUNDING = 1e-5  # the index is in float32 order: log scores up to 100, whose last place is 8e-6
Score = Literal["mean", "sum"]


@record("decoding.found_neuron", version=1)
class Found(NamedTuple):
    """One answer of `NeuronMap.find`.

    Attributes:
        neuron: whose direction it is.
        pole: "+" for w, "-" for -w.
        score: p(token) / mean of the 100 highest p, or / their sum.
        probability: softmax probability of the token.
        certain: True if no neuron that the map does not list for this token can score as high.
    """

    neuron: NeuronId
    pole: Pole
    score: float
    probability: float
    certain: bool


@record("decoding.neuron_word", version=1)
class Word(NamedTuple):
    """One of a neuron's words: the token, its logit, its score and its softmax probability."""

    token: Token
    logit: float
    score: float
    probability: float


@dataclass(frozen=True)
class _View:
    """One pole of a map, nothing copied; ``sign`` turns the stored logits into those of ±w."""

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    sign: int
    logsumexp: NDArray[np.float32]
    log_mean_top: NDArray[np.float32]

    def log_scores(self, rows: Any, places: Any) -> Any:
        """Log scores at (row, place), float64."""
        return self.sign * self.logits[rows, places].astype(np.float64) - self.log_mean_top[rows]


class _Side(NamedTuple):
    """One pole's candidates for a token: rows [m], log scores [m], and the best that any other row can have."""

    rows: NDArray[Any]
    logs: NDArray[np.float64]
    bound: float


@dataclass(frozen=True)
class NeuronMap:
    """The best tokens of every neuron of a model under one lens. N runs over layers, experts, neurons.

    Attributes:
        top_ids, top_logits: [N, k] int32, float32: the positive pole, best first, ties to the lower id.
        bottom_ids, bottom_logits: [N, k], the negative pole (the decode of -w), logits as of +w.
        logsumexp, log_mean_top: [N] float32: over all V; over the 100 highest (METHOD 2).
        bottom_logsumexp, bottom_log_mean_top: the same for -w.
        norms: [N] float32, the norm of the vector that met the head.
        roster: which neurons, in order: layers, the MLPs of a layer, their neurons.
        vocabulary: the words.
        meta: lens, k, dtype, weights' digests, versions: what the map was made from.
        indexes: from token to neurons, for "+" and "-"; a loaded map has them, a fresh one scans.
    """

    top_ids: NDArray[np.int32]
    top_logits: NDArray[np.float32]
    bottom_ids: NDArray[np.int32]
    bottom_logits: NDArray[np.float32]
    logsumexp: NDArray[np.float32]
    log_mean_top: NDArray[np.float32]
    bottom_logsumexp: NDArray[np.float32]
    bottom_log_mean_top: NDArray[np.float32]
    norms: NDArray[np.float32]
    roster: NeuronIndex
    vocabulary: Vocabulary
    meta: dict[str, Any]
    indexes: tuple[PoleIndex, ...] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.top_ids)

    def __repr__(self) -> str:
        return (
            f"NeuronMap({len(self):,} neurons of {self.meta['model']!r}, lens {self.meta['lens']}, "
            f"top {self.top_ids.shape[1]} of {len(self.vocabulary):,} tokens)"
        )

    # --- which neuron is which ----------------------------------------------------------------------

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were decoded, ascending."""
        return self.roster.layers

    def index(self, neuron: str | NeuronId) -> int:
        """The position 0..N-1 of a neuron.

        Raises:
            NeuronError: the map has no such neuron.
        """
        return self.roster.index(neuron)

    def neuron(self, i: int) -> NeuronId:
        """The neuron at position i; the inverse of `index`."""
        return self.roster.neuron(i)

    # --- questions ----------------------------------------------------------------------------------

    def pole_arrays(
        self, pole: Pole
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Ids [N, k], logits of ±w [N, k], logsumexp [N] and log_mean_top [N] of one pole."""
        view = self._view(pole)
        return view.ids, view.logits if pole == "+" else -view.logits, view.logsumexp, view.log_mean_top

    def words(
        self,
        neuron: str | NeuronId,
        n: int = 10,
        pole: Pole | Literal["both"] = "+",
        *,
        score: Score = "mean",
        excluded: bool = False,
    ) -> list[Word]:
        """A neuron's best n tokens on one pole, best first; of both poles, by the absolute logit.

        Special, unused and padded ids are left out unless ``excluded`` asks for them. Fewer than n are
        returned where the map keeps no more.
        """
        if pole == "both":
            poles = [self.words(neuron, n, p, score=score, excluded=excluded) for p in POLES]
            return sorted(poles[0] + poles[1], key=lambda word: -abs(word.logit))[:n]
        i = self.index(neuron)
        view = self._view(pole)
        words: list[Word] = []
        for token_id, logit in zip(view.ids[i], view.logits[i], strict=True):
            if len(words) == n:
                break
            if excluded or not self.vocabulary.excluded[token_id]:
                z = view.sign * float(logit)
                token = self.vocabulary.resolve(int(token_id))
                p_score = self._score(z - float(view.log_mean_top[i]), score)
                words.append(Word(token, float(logit), p_score, float(np.exp(z - view.logsumexp[i]))))
        return words

    def find(
        self,
        token: str | int | Token,
        n: int = 10,
        pole: Literal["both", "+", "-"] = "both",
        *,
        score: Score = "mean",
        checkpoint: Checkpoint | None = None,
    ) -> list[Found]:
        """The n neurons with the highest score for a token, over the whole map; the first is its specialised neuron.

        A token among a neuron's top k is scored exactly. For any other neuron the map knows only a bound,
        the score of its k-th token; an answer above every such bound is ``certain``. With a checkpoint,
        the token's logits at all neurons are computed instead, and every answer is certain.
        Ties go to the lower layer, then the lower neuron, then the positive pole.
        """
        wanted = self.vocabulary.resolve(token)
        poles: Sequence[Pole] = POLES if pole == "both" else (pole,)
        if checkpoint:
            return self._rank(self._exact([wanted.id], poles, checkpoint), poles, n, score)
        indexed = [self._look_up(wanted.id, p, n) for p in poles]
        sides = [self._scan(wanted.id, p) if side is None else side for p, side in zip(poles, indexed, strict=True)]
        return self._rank(sides, poles, n, score)

    def find_mean(
        self,
        tokens: Sequence[int],
        n: int = 10,
        pole: Literal["both", "+", "-"] = "both",
        *,
        checkpoint: Checkpoint,
        score: Score = "mean",
    ) -> list[Found]:
        """Like `find`, for a name of several tokens, by the mean of their logits at each neuron (METHOD 7)."""
        poles: Sequence[Pole] = POLES if pole == "both" else (pole,)
        return self._rank(self._exact(tokens, poles, checkpoint), poles, n, score)

    def _rank(self, sides: Sequence[_Side], poles: Sequence[Pole], n: int, score: Score) -> list[Found]:
        """The n best over the poles; those above every bound are certain."""
        # Position in [N, poles], flattened: sorting by (-score, position) keeps the stated order of ties.
        places = np.concatenate([side.rows.astype(np.int64) * len(poles) + i for i, side in enumerate(sides)])
        logs = np.concatenate([side.logs for side in sides])
        bound = max(side.bound for side in sides)
        found = []
        for at in np.lexsort((places, -logs))[: max(n, 0)]:
            i, chosen = int(places[at]) // len(poles), poles[int(places[at]) % len(poles)]
            view, log_score = self._view(chosen), float(logs[at])
            probability = float(np.exp(log_score + view.log_mean_top[i] - view.logsumexp[i]))
            found.append(Found(self.neuron(i), chosen, self._score(log_score, score), probability, log_score > bound))
        return found

    def _scan(self, token_id: int, pole: Pole) -> _Side:
        """Every neuron that lists the token, and the best bound among those that do not."""
        view = self._view(pole)
        rows, places = np.nonzero(view.ids == token_id)
        unlisted = np.ones(len(self), dtype=bool)
        unlisted[rows] = False
        complete = view.ids.shape[1] == len(self.vocabulary)
        bounds = view.log_scores(slice(None), -1)[unlisted]
        return _Side(
            rows, view.log_scores(rows, places), -np.inf if complete or not bounds.size else float(bounds.max())
        )

    def _look_up(self, token_id: int, pole: Pole, n: int) -> _Side | None:
        """The same for the n best, by the index; None where it cannot tell."""
        if self.indexes is None or not 0 < n < DEPTH:
            return None
        view, index = self._view(pole), self.indexes[POLES.index(pole)]
        places = index.places[token_id]
        places = places[places >= 0].astype(np.int64)
        rows = places // view.ids.shape[1]
        logs = view.log_scores(rows, places % view.ids.shape[1])
        if len(places) == DEPTH and logs[n - 1] <= logs[-1] + _INDEX_ROUNDING:
            return None  # ties reach beyond what was kept
        if view.ids.shape[1] == len(self.vocabulary):
            return _Side(rows, logs, -np.inf)
        bounding = next((i for i in index.bound_rows.tolist() if token_id not in view.ids[i]), None)
        return None if bounding is None else _Side(rows, logs, float(view.log_scores(bounding, -1)) + _INDEX_ROUNDING)

    def _exact(self, tokens: Sequence[int], poles: Sequence[Pole], checkpoint: Checkpoint) -> list[_Side]:
        """Every neuron's score for a token, or for the mean logits of several, from one product with the head."""
        from flashinterp.decoding.lens_rows import token_logits  # torch, which all else here does without

        if checkpoint.digests != self.meta["weights"]:
            raise MapError(
                f"this map was made from other weights than {checkpoint.name} holds: decode it again, or open "
                f"{self.meta['model']}"
            )
        if self.meta["head_of"] is not None:
            raise MapError(
                f"this map was decoded with the head of {self.meta['head_of']}, so {checkpoint.name} alone cannot give "
                "exact logits: ask without a checkpoint, or decode with a larger top_k"
            )
        z = (
            token_logits(checkpoint, self.meta["lens"], tokens, blocks=self.roster.blocks)
            .mean(axis=1)
            .astype(np.float64)
        )
        views = [self._view(p) for p in poles]
        return [_Side(np.arange(len(self)), v.sign * z - v.log_mean_top, -np.inf) for v in views]

    def _view(self, pole: Pole) -> _View:
        if pole not in POLES:
            raise NeuronError(f"unknown pole {pole!r}: choose {' or '.join(POLES)}")
        if pole == "+":
            return _View(self.top_ids, self.top_logits, 1, self.logsumexp, self.log_mean_top)
        return _View(self.bottom_ids, self.bottom_logits, -1, self.bottom_logsumexp, self.bottom_log_mean_top)

    def top_tokens(self, pole: Pole = "+", excluded: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """[N] the best token of each neuron that is not excluded; -1 where all k are.

        ``excluded`` [V] takes the place of the vocabulary's own.
        """
        ids = self._view(pole).ids
        allowed = ~(self.vocabulary.excluded if excluded is None else excluded)[ids]
        first = allowed.argmax(axis=1)
        top = np.take_along_axis(ids, first[:, None], axis=1)[:, 0].astype(np.int64)
        return np.where(allowed.any(axis=1), top, -1)

    def _score(self, log_score: float, form: Score) -> float:
        """exp of a log score, as a ratio to the mean of the top probabilities or to their sum."""
        if form not in get_args(Score):
            raise MapError(f"unknown score {form!r}: choose {' or '.join(get_args(Score))}")
        value = float(np.exp(log_score))  # at most 100: the mean includes the largest
        return value if form == "mean" else value / min(SCORE_TOKENS, len(self.vocabulary))

    def scores(self, token: str | int | Token, pole: Pole = "+") -> NDArray[np.float64]:
        """[N] the score of a token at each neuron, NaN where the map does not list it."""
        listed = self._scan(self.vocabulary.resolve(token).id, pole)
        scores = np.full(len(self), np.nan)
        scores[listed.rows] = np.exp(listed.logs)
        return scores

    def unit_score(self, neuron: str | NeuronId, token: str | int | Token, pole: Pole = "+") -> float | None:
        """A token's score with the neuron's vector scaled to norm 1: no rescaling of the model changes it (METHOD 2).

        (c·w_up, w_down/c) is the same gated neuron for any c > 0, and its raw scores differ; this one does not.
        None where the map does not list the token, keeps fewer than 100 tokens, or the vector is zero.
        """
        i, view = self.index(neuron), self._view(pole)
        count = min(SCORE_TOKENS, len(self.vocabulary))
        places = np.flatnonzero(view.ids[i] == self.vocabulary.resolve(token).id)
        if places.size == 0 or view.ids.shape[1] < count or self.norms[i] == 0:
            return None
        logits, softcap = view.sign * view.logits[i].astype(np.float64), self.meta.get("softcap")
        if softcap is None:
            unit = logits / float(self.norms[i])
        else:  # the cap comes after the scaling
            inside = np.arctanh(np.clip(logits / softcap, -_BELOW_CAP, _BELOW_CAP)) / float(self.norms[i])
            unit = softcap * np.tanh(inside)
        return float(np.exp(unit[places[0]]) / np.exp(unit[:count]).mean())

    # --- files --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the map as one safetensors file, whole or not at all.

        Raises:
            MapError: the place cannot be written.
        """
        arrays = {name: getattr(self, name) for name in ARRAYS}
        indexes = self.indexes or self._build_indexes()
        write_map(Path(path), MapParts(arrays, self.roster, self.vocabulary, self.meta, indexes))
        return Path(path)

    def _build_indexes(self) -> tuple[PoleIndex, ...]:
        from flashinterp.decoding.index_builder import build_index  # torch, which reading a map does without

        def build(pole: Pole) -> PoleIndex:
            ids, logits, _, mean = self.pole_arrays(pole)
            return build_index(ids, logits - mean[:, None], len(self.vocabulary))

        with ThreadPoolExecutor(len(POLES)) as pool:  # numpy leaves Python's lock while it sorts
            return tuple(pool.map(build, POLES))

    @classmethod
    def load(cls, path: str | Path) -> NeuronMap:
        """Read a map that `save` wrote.

        Raises:
            MapError: not a map, damaged, or of another schema.
        """
        parts = read_map(Path(path))
        return cls(
            **parts.arrays, roster=parts.roster, vocabulary=parts.vocabulary, meta=parts.meta, indexes=parts.indexes
        )


class LensMaps(Protocol):
    """Lens to map: a dict, or what decodes a lens when it is first asked for."""

    def __getitem__(self, lens: str, /) -> NeuronMap: ...
