"""What a run leaves for a later one to be compared with: every neuron's words, and each claim's effects.

Self-contained, so that two runs are compared without their models: it carries its vocabulary and its neurons' places.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import LensMaps, NeuronMap
from flashinterp.errors import RunError
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block, NeuronId, Pole
from flashinterp.provenance.registry import record
from flashinterp.studies.finetuning.compare import NEAR_TIE
from flashinterp.tokens import show

WORDS = 5
"""Words kept of each neuron: enough to read what it names, 9 MB for the 458,752 neurons of an 8B Llama."""
LENS = "paper"
POLE: Pole = "+"
"""Of the whole model's words, as in the paper's 75.4 %."""


@record("runs.neuron_words", version=1)
@dataclass(frozen=True)
class Words:
    """The best words of m neurons, special and padded ids left out.

    Attributes:
        ids: [m, WORDS] int32, best first; -1 where a map lists no more.
        lead: [m] float32, how far the first is above the second, in logits; 0 where there is no second.
        near_tie: [m] bool, the lead is within what storage in bfloat16 takes away, or there is no second.
    """

    ids: NDArray[np.int32]
    lead: NDArray[np.float32]
    near_tie: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, i: int) -> Words:
        """One neuron's, as m = 1."""
        return Words(self.ids[i : i + 1], self.lead[i : i + 1], self.near_tie[i : i + 1])


@record("runs.reference", version=1)
@dataclass(frozen=True)
class Reference:
    """What a later run is compared with.

    Attributes:
        surfaces: [V] the vocabulary's texts, by id.
        roster: which neurons, in order.
        words: [N] of all neurons, by the paper lens at the positive pole.
        claims: [C] the claims' ids, in their order in ``results.json``.
        claim_words: [C] of the claims' neurons, by each claim's own lens and pole.
        best: [C] the place of the neuron that names the claim's token best, by its lens and pole; -1 where none does.
        measured: [C] bool, whether there is evidence.
        effects: [C, P] float64, nats: the change of the token's log-odds over the neuron's own natural range, in the
            claimed direction, by held-out prompt; 0 where nothing was measured.
    """

    surfaces: tuple[str, ...]
    roster: NeuronIndex
    words: Words
    claims: tuple[str, ...]
    claim_words: Words
    best: NDArray[np.int64]
    measured: NDArray[np.bool_]
    effects: NDArray[np.float64]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, for ``raw/*.npz``; texts as JSON in bytes."""
        return {
            "surfaces": _as_bytes(self.surfaces),
            "blocks": np.array(self.roster.as_rows(), dtype=np.int64).reshape(-1, 3),
            "claims": _as_bytes(self.claims),
            "best": self.best,
            "measured": self.measured,
            "effects": self.effects,
            **_named("words", self.words),
            **_named("claim_words", self.claim_words),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """The inverse of `arrays`.

        Raises:
            RunError: an array is missing, or they do not fit each other.
        """
        try:
            rows = [[int(value) for value in row] for row in arrays["blocks"]]
            found = cls(
                surfaces=_as_texts(arrays["surfaces"]),
                roster=NeuronIndex(
                    tuple(Block(layer, None if expert < 0 else expert) for layer, expert, _ in rows),
                    tuple(width for _, _, width in rows),
                ),
                words=_read_words("words", arrays),
                claims=_as_texts(arrays["claims"]),
                claim_words=_read_words("claim_words", arrays),
                best=arrays["best"],
                measured=arrays["measured"],
                effects=arrays["effects"],
            )
        except (KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"a run's reference cannot be read ({type(error).__name__}: {error}): give the folder of a finished run"
            ) from error
        found._check()
        return found

    def _check(self) -> None:
        n, c, v = len(self.roster), len(self.claims), len(self.surfaces)
        fits = len(self.words) == n and all(len(a) == c for a in (self.claim_words, self.best, self.measured))
        ids = [w.ids for w in (self.words, self.claim_words)]
        if not (fits and self.effects.ndim == 2 and len(self.effects) == c):
            raise RunError(f"a run's reference has arrays of other lengths than its {n} neurons and {c} claims: "
                           "give the folder of a finished run")  # fmt: skip
        if any(((i < -1) | (i >= v)).any() for i in ids) or ((self.best < -1) | (self.best >= n)).any():
            raise RunError(
                "a run's reference names tokens or neurons that it has not: give the folder of a finished run"
            )

    def place(self, claim: str) -> int | None:
        """Where a claim stands; None where it has none."""
        return self.claims.index(claim) if claim in self.claims else None

    def said(self, words: Words, n: int = WORDS) -> tuple[str, ...]:
        """The first neuron's best words, in a form that is safe to show."""
        return tuple(show(self.surfaces[i]) for i in words.ids[0, :n] if i >= 0)

    def texts(self, words: Words) -> dict[int, str]:
        """The surfaces of these words, by id."""
        return {int(i): self.surfaces[i] for i in np.unique(words.ids) if i >= 0}


def make_reference(
    maps: LensMaps, claims: Sequence[Claim], evidence: Sequence[Evidence | str], width: int
) -> Reference:
    """Gather a run's reference from its maps and evidence.

    Args:
        maps: lens to map of the whole model.
        claims: complete, as measured.
        evidence: one per claim, or the reason why there is none.
        width: P, the profile's prompts; fewer are filled up with nothing measured.
    """
    paper = maps[LENS]
    everywhere = np.arange(len(paper))
    each = [_claim_words(maps, claim) for claim in claims]
    measured, effects = effects_of(claims, evidence, width)
    return Reference(
        surfaces=paper.vocabulary.surfaces,
        roster=paper.roster,
        words=best_words(paper, POLE, everywhere),
        claims=tuple(claim.id for claim in claims),
        claim_words=Words(*(np.concatenate([getattr(w, f) for w in each]) for f in ("ids", "lead", "near_tie"))),
        best=np.array([_best(maps, claim) for claim in claims], dtype=np.int64),
        measured=measured,
        effects=effects,
    )


def effects_of(
    claims: Sequence[Claim], evidence: Sequence[Evidence | str], width: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether there is evidence on each claim [C], and its effects by prompt [C, width], as `Reference` holds them."""
    effects = np.zeros((len(claims), width))
    measured = np.zeros(len(claims), dtype=bool)
    for i, (claim, found) in enumerate(zip(claims, evidence, strict=True)):
        if isinstance(found, Evidence) and found.unfit() is None:
            sign = 1.0 if claim.drive == "+" else -1.0
            effects[i], measured[i] = sign * (found.log_odds[:, -1] - found.log_odds[:, 0]), True
    return measured, effects


def best_words(m: NeuronMap, pole: Pole, places: NDArray[np.int64]) -> Words:
    """The best words of some neurons [m] of a map, by place."""
    ids, logits, _, _ = m.pole_arrays(pole)
    ids, logits = ids[places], logits[places]
    excluded = m.vocabulary.excluded[ids]
    # A stable sort of "is excluded" puts the words in front, best first.
    order = np.argsort(excluded, axis=1, kind="stable")[:, :WORDS]
    kept, allowed = np.take_along_axis(ids, order, 1), ~np.take_along_axis(excluded, order, 1)
    z = np.take_along_axis(logits, order, 1)
    found = np.full((len(places), WORDS), -1, dtype=np.int32)
    found[:, : kept.shape[1]] = np.where(allowed, kept, -1)
    two = allowed[:, :2].all(axis=1) & (allowed.shape[1] > 1)
    lead = np.where(two, z[:, 0] - z[:, min(1, z.shape[1] - 1)], 0).astype(np.float32)
    return Words(found, lead, ~two | (lead <= NEAR_TIE * np.abs(z[:, 0])))


def _claim_words(maps: LensMaps, claim: Claim) -> Words:
    found_in, neuron = maps[claim.lens], _neuron(claim)
    return best_words(found_in, claim.pole or "+", np.array([found_in.index(neuron)]))


def _best(maps: LensMaps, claim: Claim) -> int:
    found = maps[claim.lens].find(claim.token, 1, claim.pole or "both")
    return maps[claim.lens].index(found[0].neuron) if found else -1


def _neuron(claim: Claim) -> NeuronId:
    if claim.neuron is None:
        raise RunError(f"the claim {claim.id!r} names no neuron: give it one with resolve_claim first")
    return claim.neuron


def _named(name: str, words: Words) -> dict[str, NDArray[Any]]:
    return {f"{name}.{field}": array for field, array in vars(words).items()}


def _read_words(name: str, arrays: Mapping[str, NDArray[Any]]) -> Words:
    found = Words(arrays[f"{name}.ids"], arrays[f"{name}.lead"], arrays[f"{name}.near_tie"])
    if found.ids.shape != (len(found.lead), WORDS) or found.near_tie.shape != found.lead.shape:
        raise ValueError(f"{name} has ids of shape {found.ids.shape} for {len(found.lead)} neurons")
    return found


def _as_bytes(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Texts as JSON; ASCII only, which holds lone surrogates, too."""
    return np.frombuffer(json.dumps(list(texts)).encode("ascii"), dtype=np.uint8)


def _as_texts(data: NDArray[Any]) -> tuple[str, ...]:
    texts = json.loads(data.astype(np.uint8).tobytes())
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise ValueError("texts are not a list of texts")
    return tuple(texts)
