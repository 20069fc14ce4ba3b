"""`NeuronMap`: the saved result of a decode, and the questions that one asks of it.

A map is self-contained: it carries its words, its lens and the digests of the weights that it was made
from, so that `find` and `words` need neither the model nor its tokenizer.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flashinterp.checkpoint import Checkpoint
from flashinterp.decode import SCORE_TOKENS, token_logits
from flashinterp.errors import MapError, NeuronError
from flashinterp.neuron import POLES, NeuronId, Pole
from flashinterp.tokens import Token, Vocabulary

SCHEMA_VERSION = 1
Score = Literal["mean", "sum"]

_ARRAYS = (
    "top_ids",
    "top_logits",
    "logsumexp",
    "log_mean_top",
    "bottom_ids",
    "bottom_logits",
    "bottom_logsumexp",
    "bottom_log_mean_top",
    "norms",
)


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


class Word(NamedTuple):
    """One of a neuron's words: the token, its logit, its score and its softmax probability."""

    token: Token
    logit: float
    score: float
    probability: float


@dataclass(frozen=True)
class NeuronMap:
    """The best tokens of every neuron of a model under one lens. N runs over layers, then neurons.

    Attributes:
        top_ids, top_logits: [N, k] int32, float32: the positive pole, best first, ties to the lower id.
        bottom_ids, bottom_logits: [N, k], the negative pole (the decode of -w), logits as of +w.
        logsumexp, log_mean_top: [N] float32: over all V; over the 100 highest (METHOD 2).
        bottom_logsumexp, bottom_log_mean_top: the same for -w.
        norms: [N] float32, the norm of the vector that met the head.
        layers: the layers that were decoded, ascending.
        n_neurons: F, neurons per layer.
        vocabulary: the words.
        meta: lens, k, dtype, weights' digests, versions: what the map was made from.
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
    layers: tuple[int, ...]
    n_neurons: int
    vocabulary: Vocabulary
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.top_ids)

    def __repr__(self) -> str:
        return (
            f"NeuronMap({len(self):,} neurons of {self.meta['model']!r}, lens {self.meta['lens']}, "
            f"top {self.top_ids.shape[1]} of {len(self.vocabulary):,} tokens)"
        )

    # --- which neuron is which ----------------------------------------------------------------------

    def index(self, neuron: str | NeuronId) -> int:
        """The position 0..N-1 of a neuron.

        Raises:
            NeuronError: the map has no such neuron.
        """
        wanted = NeuronId.parse(neuron)
        if wanted.layer not in self.layers or not 0 <= wanted.neuron < self.n_neurons:
            raise NeuronError(
                f"{wanted} is not in this map: it holds layers {_span(self.layers)} with neurons 0 to "
                f"{self.n_neurons - 1}"
            )
        return self.layers.index(wanted.layer) * self.n_neurons + wanted.neuron

    def neuron(self, i: int) -> NeuronId:
        """The neuron at position i; the inverse of `index`."""
        if not 0 <= i < len(self):
            raise NeuronError(f"position {i} is out of range: this map holds {len(self)} neurons")
        return NeuronId(self.layers[i // self.n_neurons], i % self.n_neurons)

    # --- questions ----------------------------------------------------------------------------------

    def pole_arrays(
        self, pole: Pole
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """ids [N, k], logits of ±w [N, k], logsumexp [N] and log_mean_top [N] of one pole."""
        if pole not in POLES:
            raise NeuronError(f"unknown pole {pole!r}: choose {' or '.join(POLES)}")
        if pole == "+":
            return self.top_ids, self.top_logits, self.logsumexp, self.log_mean_top
        return self.bottom_ids, -self.bottom_logits, self.bottom_logsumexp, self.bottom_log_mean_top

    def words(
        self, neuron: str | NeuronId, n: int = 10, pole: Pole = "+", *, score: Score = "mean", excluded: bool = False
    ) -> list[Word]:
        """A neuron's best n tokens on one pole, best first.

        Special, unused and padded ids are left out unless ``excluded`` asks for them. Fewer than n are
        returned where the map keeps no more.
        """
        i = self.index(neuron)
        ids, logits, lse, mean = self.pole_arrays(pole)
        words: list[Word] = []
        for token_id, z in zip(ids[i], logits[i], strict=True):
            if len(words) == n:
                break
            if excluded or not self.vocabulary.excluded[token_id]:
                p_score = self._score(float(z - mean[i]), score)
                token = self.vocabulary.resolve(int(token_id))
                words.append(Word(token, float(z) * (1 if pole == "+" else -1), p_score, float(np.exp(z - lse[i]))))
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
            return self._rank(self._exact_scores([wanted.id], poles, checkpoint), -np.inf, poles, n, score)
        return self._rank(*self._listed(wanted.id, poles), poles, n, score)

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
        return self._rank(self._exact_scores(tokens, poles, checkpoint), -np.inf, poles, n, score)

    def _rank(
        self, logs: NDArray[np.float64], bound: float, poles: Sequence[Pole], n: int, score: Score
    ) -> list[Found]:
        """The n best of log scores [N, poles]; those above the bound are certain."""
        # Sorting by (-score, position) over [N, poles] flattened keeps the stated order of ties.
        flat = logs.ravel()
        best = np.argsort(-flat, kind="stable")[: min(max(n, 0), int(np.isfinite(flat).sum()))]
        found = []
        for at in best:
            i, chosen = int(at) // len(poles), poles[int(at) % len(poles)]
            _, _, lse, mean = self.pole_arrays(chosen)
            log_score = float(flat[at])
            probability = float(np.exp(log_score + mean[i] - lse[i]))
            found.append(Found(self.neuron(i), chosen, self._score(log_score, score), probability, log_score > bound))
        return found

    def _listed(self, token_id: int, poles: Sequence[Pole]) -> tuple[NDArray[np.float64], float]:
        """log score [N, poles] where the map lists the token, -inf elsewhere; the best bound elsewhere."""
        logs = np.full((len(self), len(poles)), -np.inf)
        bound = -np.inf
        for column, pole in enumerate(poles):
            ids, logits, _, mean = self.pole_arrays(pole)
            rows, places = np.nonzero(ids == token_id)
            logs[rows, column] = logits[rows, places].astype(np.float64) - mean[rows]
            unlisted = ~np.isfinite(logs[:, column])
            if ids.shape[1] < len(self.vocabulary) and unlisted.any():
                bound = max(bound, float((logits[:, -1].astype(np.float64) - mean)[unlisted].max()))
        return logs, bound

    def _exact_scores(
        self, tokens: Sequence[int], poles: Sequence[Pole], checkpoint: Checkpoint
    ) -> NDArray[np.float64]:
        """log score [N, poles] of one token, or of the mean logits of several, from one product with the head."""
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
        z = token_logits(checkpoint, self.meta["lens"], tokens, layers=self.layers).mean(axis=1)
        signed = {"+": z, "-": -z}
        means = {p: self.pole_arrays(p)[3] for p in poles}
        columns = [signed[p].astype(np.float64) - means[p] for p in poles]
        return np.stack(columns, axis=1)

    def top_tokens(self, pole: Pole = "+") -> NDArray[np.int64]:
        """[N] the best token of each neuron that is not excluded; -1 where all k are."""
        ids = self.pole_arrays(pole)[0]
        allowed = ~self.vocabulary.excluded[ids]
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
        logs, _ = self._listed(self.vocabulary.resolve(token).id, [pole])
        return np.where(np.isfinite(logs[:, 0]), np.exp(logs[:, 0]), np.nan)

    # --- files --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the map as one safetensors file, whole or not at all.

        Raises:
            MapError: the place cannot be written.
        """
        path = Path(path)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        words = json.dumps(
            {
                "surfaces": self.vocabulary.surfaces,
                "excluded": np.flatnonzero(self.vocabulary.excluded).tolist(),
                "prefix_space": self.vocabulary.prefix_space,
            }
        )
        arrays["vocabulary"] = np.frombuffer(words.encode(), dtype=np.uint8)
        about = {"schema_version": SCHEMA_VERSION, "layers": self.layers, "n_neurons": self.n_neurons, **self.meta}
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work:
                temporary = Path(work) / path.name
                save_file(arrays, temporary, metadata={"flashinterp": json.dumps(about, sort_keys=True)})
                os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise MapError(f"the map cannot be written to {path} ({error}): choose a place with room") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> NeuronMap:
        """Read a map that `save` wrote.

        Raises:
            MapError: not a map, damaged, or of another schema.
        """
        try:
            with safe_open(str(path), framework="np") as file:
                about = json.loads((file.metadata() or {}).get("flashinterp", "null"))
                if not isinstance(about, dict):
                    raise MapError(f"{path} is safetensors, but no neuron map: give a file that NeuronMap.save wrote")
                if about.get("schema_version") != SCHEMA_VERSION:
                    raise MapError(
                        f"{path} has map schema {about.get('schema_version')}, this release reads "
                        f"{SCHEMA_VERSION}: decode the model again"
                    )
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
                words = json.loads(file.get_tensor("vocabulary").tobytes())
            vocabulary = Vocabulary(words["surfaces"], words["excluded"], prefix_space=words["prefix_space"])
            layers, n_neurons = tuple(about.pop("layers")), int(about.pop("n_neurons"))
        except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError) as error:
            raise MapError(f"{path} is not a whole neuron map ({error}): decode the model again") from error
        about.pop("schema_version")
        if any(len(array) != len(layers) * n_neurons for array in arrays.values()):
            raise MapError(f"{path} does not hold {len(layers)} layers of {n_neurons} neurons: decode the model again")
        return cls(**arrays, layers=layers, n_neurons=n_neurons, vocabulary=vocabulary, meta=about)


def _span(layers: tuple[int, ...]) -> str:
    contiguous = layers == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if contiguous else ", ".join(map(str, layers))
