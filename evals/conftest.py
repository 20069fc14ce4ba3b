"""What the evals share: one decode per lens, one family of claims, one loaded model, one judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from flashinterp import Checkpoint, open_checkpoint, probe
from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.claim_family import (
    check_family,
    complete_claims,
    discovered_claims,
    lock_family,
    planted_claims,
)
from flashinterp.evaluation.claims import Claim, load_claims
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.measure import judge_on
from flashinterp.evaluation.profiles import PROFILES, Profile
from flashinterp.evaluation.prompts import PromptSet
from flashinterp.evaluation.verdict import Rule
from flashinterp.evaluation.word_choice import well_named
from flashinterp.runs.compare.baseline import again, read_run
from flashinterp.runs.session import AuditSession

RULE = Rule()


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
def maps(audit: AuditSession, device: str) -> LensMaps:
    """The model's maps, by lens."""
    return DecodedMaps(audit.base, device)


@pytest.fixture(scope="session")
def tuned_maps(audit: AuditSession, device: str) -> LensMaps | None:
    """The fine-tune's maps, by lens; None without one."""
    return DecodedMaps(audit.tuned, device) if audit.tuned else None


@pytest.fixture(scope="session")
def tokens(audit: AuditSession, base: Checkpoint, maps: LensMaps) -> tuple[str, ...]:
    """The words to find neurons for: those asked for, those planted, or those that this model names best."""
    if audit.options.tokens:
        return tuple(base.vocabulary.resolve(t).text for t in audit.options.tokens)
    if audit.truth:
        return tuple(dict.fromkeys(plant["token"] for plant in audit.truth["plants"]))
    return well_named(maps["paper"], audit.prompts)


@pytest.fixture(scope="session")
def claims(
    audit: AuditSession,
    base: Checkpoint,
    maps: LensMaps,
    tokens: tuple[str, ...],
    profile: Profile,
    prompts: PromptSet,
    device: str,
) -> tuple[Claim, ...]:
    """The family of claims, complete, checked against the design and locked before any model is loaded."""
    if audit.options.claims:
        written = load_claims(audit.options.claims)
    elif audit.truth:
        written = planted_claims(audit.truth["plants"])
    elif audit.options.baseline and not audit.options.tokens:
        written = ()  # those of the baseline, below
    else:
        written = discovered_claims(tokens)
    family = complete_claims(written, maps, base)
    if audit.options.baseline:
        family += again(read_run(audit.options.baseline), family)
    check_family(family, base.layout.roster, profile, RULE)
    design: dict[str, Any] = {"rule": RULE, "profile": profile, "prompts": prompts.digest, "seed": audit.options.seed}
    audit.lock_claims(lock_family(family, **design, model=base.digests, device=device))
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
    found = judge_on(bench, claims, RULE)
    audit.add_judgement("claims", found.verdicts, found.evidence, rule=RULE, seed=bench.seed)
    return found


@pytest.fixture(scope="session")
def judged_tuned(
    audit: AuditSession, session_tuned_model: Any, bench: Experiment, claims: tuple[Claim, ...]
) -> Judged | None:
    """The same claims, neuron for neuron, on the fine-tune."""
    if audit.tuned is None:
        return None
    found = judge_on(replace(bench, model=session_tuned_model, checkpoint=audit.tuned), claims, RULE)
    audit.add_judgement("claims-tuned", found.verdicts, found.evidence, rule=RULE, seed=bench.seed)
    return found
