"""What the evals share: one decode per lens, one family of claims, one loaded model, one judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from flashinterp import Checkpoint, FlashinterpError, NeuronMap, decode, open_checkpoint, probe
from flashinterp.evaluation.claim_resolution import resolve_claim
from flashinterp.evaluation.claims import Claim, check_design, load_claims, lock
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.profiles import PROFILES, Profile
from flashinterp.evaluation.prompts import PromptSet
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.neurons import NeuronId
from flashinterp.runs.compare.baseline import again, read_run
from flashinterp.runs.session import AuditSession

MOST_CLAIMS = 8  # discovered on a model that nobody made claims about

RULE = Rule()


@dataclass
class Maps:
    """The maps of one model, each lens decoded when it is first asked for."""

    checkpoint: Checkpoint
    device: str
    head_of: Checkpoint | None = None
    _made: dict[str, NeuronMap] = field(default_factory=dict)

    def __getitem__(self, lens: str) -> NeuronMap:
        if lens not in self._made:
            self._made[lens] = decode(self.checkpoint, lens=lens, device=self.device, head_of=self.head_of)
        return self._made[lens]


@pytest.fixture(scope="session")
def profile(audit: AuditSession) -> Profile:
    return PROFILES[audit.options.profile]


@pytest.fixture(scope="session")
def prompts(audit: AuditSession) -> PromptSet:
    """The texts: the user's own, the bundled models' own, or the shipped ones."""
    return audit.prompts


@pytest.fixture(scope="session")
def base(audit: AuditSession) -> Checkpoint:
    """The model under audit, as files."""
    return audit.base


@pytest.fixture(scope="session")
def maps(audit: AuditSession, device: str) -> Maps:
    """The model's maps, by lens."""
    return Maps(audit.base, device)


@pytest.fixture(scope="session")
def tuned_maps(audit: AuditSession, device: str) -> Maps | None:
    """The fine-tune's maps, by lens; None without one."""
    return Maps(audit.tuned, device) if audit.tuned else None


@pytest.fixture(scope="session")
def tokens(audit: AuditSession, base: Checkpoint, maps: Maps) -> tuple[str, ...]:
    """The words to find neurons for: those asked for, those planted, or those that this model names best."""
    if audit.options.tokens:
        return tuple(base.vocabulary.resolve(t).text for t in audit.options.tokens)
    if audit.truth:
        return tuple(dict.fromkeys(plant["token"] for plant in audit.truth["plants"]))
    return _well_named(base, maps["paper"], audit.prompts)


def _well_named(base: Checkpoint, paper: NeuronMap, prompts: PromptSet) -> tuple[str, ...]:
    """Up to eight words: the prompt set's concepts that are tokens here, then others, each by the score of its neuron.

    Chosen by weights alone, so nothing that is measured later has chosen it.
    """
    vocabulary = base.vocabulary
    concepts = []
    for word in prompts.concepts:
        try:
            concepts.append(vocabulary.resolve(word).id)
        except FlashinterpError:
            continue  # not one token in this vocabulary
    others = [int(i) for i in set(paper.top_tokens("+")) & set(vocabulary.words()) - set(concepts)]

    def best(token_id: int) -> float:
        found = paper.find(token_id, 1)
        return found[0].score if found else 0.0

    ranked = sorted(concepts, key=lambda i: (-best(i), i)) + sorted(others, key=lambda i: (-best(i), i))
    return tuple(vocabulary.surfaces[i] for i in ranked[:MOST_CLAIMS])


@pytest.fixture(scope="session")
def claims(
    audit: AuditSession,
    base: Checkpoint,
    maps: Maps,
    tokens: tuple[str, ...],
    profile: Profile,
    prompts: PromptSet,
    device: str,
) -> tuple[Claim, ...]:
    """The family of claims, complete, checked against the design and locked before any model is loaded."""
    if audit.options.claims:
        written = load_claims(audit.options.claims)
    elif audit.truth:
        written = tuple(
            Claim(p["id"], p["token"], NeuronId.parse(p["name"]), p["pole"], p["lens"], None, "fixture", p["verdict"])
            for p in audit.truth["plants"]
        )
    elif audit.options.baseline and not audit.options.tokens:
        written = ()  # those of the baseline, below
    else:
        written = tuple(Claim(t.strip(), t, None, None, "paper", None, "discovered") for t in tokens)
    family = tuple(resolve_claim(c, maps, base) for c in written)
    if audit.options.baseline:
        family += again(read_run(audit.options.baseline), family)
    peers = min((base.layout.roster.width(c.neuron.block) - 1 for c in family if c.neuron), default=0)
    sizes = {name: getattr(profile, name) for name in ("prompts", "doses", "contexts", "absent")}
    check_design(len(family), {"controls": min(profile.controls, peers), **sizes}, RULE.alpha)
    audit.lock_claims(
        lock(
            family,
            rule=vars(RULE),
            profile=vars(profile),
            prompts=prompts.digest,
            seed=audit.options.seed,
            model=base.digests,
            device=device,
        )
    )
    return family


@pytest.fixture(scope="session")
def load(audit: AuditSession, device: str, claims: tuple[Claim, ...]) -> Callable[[Checkpoint], Any]:
    """Load a model for causal work, after the claims are locked, and prove its layout."""
    dtypes = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

    def load(checkpoint: Checkpoint) -> Any:
        model = checkpoint.load_model(device=device, dtype=dtypes[audit.options.dtype])
        errors = probe(checkpoint, model)
        audit.resolved[f"probe, {'base' if checkpoint is audit.base else 'tuned'}"] = errors
        audit.resolved["device"], audit.resolved["dtype"] = device, str(model.dtype).removeprefix("torch.")
        return model

    return load


@pytest.fixture(scope="session")
def session_model(base: Checkpoint, load: Callable[[Checkpoint], Any]) -> Any:
    return load(base)


@pytest.fixture(scope="session")
def session_tuned_model(audit: AuditSession, load: Callable[[Checkpoint], Any]) -> Any:
    return load(audit.tuned) if audit.tuned else None


@pytest.fixture
def model(session_model: Any) -> Iterator[Any]:
    """The live model; afterwards no hook may be left on it."""
    yield session_model
    left = [n for n, m in session_model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not left, f"hooks were left on {left[0]}"
    assert not session_model.training


@pytest.fixture(scope="session")
def bench(
    audit: AuditSession, session_model: Any, base: Checkpoint, prompts: PromptSet, profile: Profile
) -> Experiment:
    return Experiment(session_model, base, prompts, profile, audit.options.seed)


@pytest.fixture(scope="session")
def blank(audit: AuditSession) -> Checkpoint:
    """The negative control of the bundled models: one that has learnt nothing and in which nothing was planted."""
    if audit.options.bundled is None:
        pytest.skip("the control model belongs to the bundled models")
    from fixtures.bundles import BUNDLES  # in the checkout only, as the control is

    return open_checkpoint(BUNDLES[audit.options.bundled]().blank)


@pytest.fixture(scope="session")
def judged(audit: AuditSession, bench: Experiment, claims: tuple[Claim, ...]) -> Judged:
    """The claims measured on the model and judged, once for all evals."""
    found = judge_on(bench, claims)
    audit.add_judgement("claims", found.verdicts, found.evidence, rule=RULE, seed=bench.seed)
    return found


def judge_on(bench: Experiment, claims: tuple[Claim, ...]) -> Judged:
    """Measure and judge a family of claims on one model."""
    evidence = measure(bench, claims)
    return Judged(claims, tuple(evidence), tuple(judge(claims, evidence, rule=RULE, seed=bench.seed)))


@pytest.fixture(scope="session")
def judged_tuned(
    audit: AuditSession, session_tuned_model: Any, bench: Experiment, claims: tuple[Claim, ...]
) -> Judged | None:
    """The same claims, neuron for neuron, on the fine-tune."""
    if audit.tuned is None:
        return None
    found = judge_on(replace(bench, model=session_tuned_model, checkpoint=audit.tuned), claims)
    audit.add_judgement("claims-tuned", found.verdicts, found.evidence, rule=RULE, seed=bench.seed)
    return found
