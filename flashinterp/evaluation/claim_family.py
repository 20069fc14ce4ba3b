"""The family of claims of one run: written, completed by weights alone, checked, locked; and whether it held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.claim_resolution import resolve_claim
from flashinterp.evaluation.claims import Claim, check_design, lock
from flashinterp.evaluation.profiles import Profile
from flashinterp.evaluation.verdict import Rule, Verdict
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import NeuronId


def discovered_claims(words: Iterable[str]) -> tuple[Claim, ...]:
    """One open claim for each word: the paper lens will find its neuron."""
    return tuple(Claim(word.strip(), word, None, None, "paper", None, "discovered") for word in words)


def planted_claims(plants: Iterable[Mapping[str, Any]]) -> tuple[Claim, ...]:
    """One claim for each neuron that was planted in a model, expecting the verdict for which it was planted.

    Args:
        plants: each with its id, token, name (of the neuron), pole, lens and verdict.
    """
    return tuple(
        Claim(p["id"], p["token"], NeuronId.parse(p["name"]), p["pole"], p["lens"], None, "fixture", p["verdict"])
        for p in plants
    )


def same_words_elsewhere(claims: Iterable[Claim], maps: LensMaps, checkpoint: Checkpoint) -> tuple[Claim, ...]:
    """Claims about the same words in another model, about the neurons that the same lenses find there."""
    words = dict.fromkeys((claim.token, claim.lens) for claim in claims)
    written = (Claim(f"{str(t).strip()}-{lens}", t, None, None, lens, None, "discovered") for t, lens in words)
    return complete_claims(written, maps, checkpoint)


def complete_claims(written: Iterable[Claim], maps: LensMaps, checkpoint: Checkpoint) -> tuple[Claim, ...]:
    """Each claim with its neuron and its pole, by weights alone; see `resolve_claim`."""
    return tuple(resolve_claim(claim, maps, checkpoint) for claim in written)


def check_family(family: Sequence[Claim], roster: NeuronIndex, profile: Profile, rule: Rule) -> None:
    """Refuse a family of which a single true claim could never pass, see `check_design`.

    A neuron has no more controls than its MLP has other neurons.

    Raises:
        ClaimError: the family is too large for what is measured.
    """
    peers = min((roster.width(claim.neuron.block) - 1 for claim in family if claim.neuron), default=0)
    sizes = {name: getattr(profile, name) for name in ("prompts", "doses", "contexts", "absent")}
    check_design(len(family), {"controls": min(profile.controls, peers), **sizes}, rule.alpha)


def lock_family(
    family: Sequence[Claim], *, rule: Rule, profile: Profile, prompts: str, seed: int, model: Any, device: str
) -> dict[str, Any]:
    """What is fixed before anything is measured, with its sha256; see `lock`.

    Args:
        family: the claims.
        rule, profile, seed, device: how they will be measured and judged.
        prompts: the texts' digest.
        model: the digests of the weights.
    """
    design = {"profile": vars(profile), "prompts": prompts, "seed": seed, "model": model, "device": device}
    return lock(family, rule=vars(rule), **design)


def not_held(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts on those claims of a file of which no candidate came out as claimed."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.claim.source == "file":
            groups.setdefault(verdict.claim.group, []).append(verdict)
    return [v for own in groups.values() if all(v.verdict != v.claim.expect for v in own) for v in own]
