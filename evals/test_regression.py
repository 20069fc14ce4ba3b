"""What was known of this model before, is it still so? The gate for a fine-tune or a new release.

A neuron that was validated, and is used or watched, may be lost by the next training run, and no benchmark shows it.
Every run leaves a record of all its neurons' words and of its claims' effects; with ``--baseline`` the earlier run's
record is compared with this run's: which neurons kept, moved or lost their role or their words, and by how much.
"""

from __future__ import annotations

import json

import pytest

from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.profiles import Profile
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.compare.baseline import REFERENCE, FinishedRun, read_run
from flashinterp.runs.compare.diff import diff
from flashinterp.runs.compare.diff_tables import diff_tables
from flashinterp.runs.compare.regression_tables import OF_ALL, compared, reference_table, since_table
from flashinterp.runs.compare.snapshot import Reference, make_reference
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession


def test_nothing_is_lost_since_the_baseline(
    audit: AuditSession, judged: Judged, maps: LensMaps, profile: Profile, evidence: EvalRecorder
) -> None:
    """Each claim of the baseline beside what this run found of the same neuron; a loss fails.

    Implementation: a claim of one run is that of the other if word, neuron and direction are the same. A neuron that
    was validated has *kept* its role where the 90 % interval of the difference of the effects, prompt by prompt, lies
    within the margin (two one-sided t tests; METHOD 5) and it still fires where its word is: whatever the verdict,
    since a figure near a threshold falls on either side of it. *Changed*: it is validated still, and that is not shown.
    *Moved*: another neuron is validated for the word now, which did not name it before; told, and not a failure.
    *Lost*: none of these. One that was not measured again counts as lost, so the baseline's validated neurons are
    tested beside this run's claims, and all of its claims where this run has none of its own. Runs of other neurons or
    of another vocabulary are refused; other prompts, dtypes, devices or versions are said. Words: by the paper lens
    over all neurons, and by each claim's own lens.

    Without a baseline nothing is compared: this run's record is left for a later one.
    """
    reference = make_reference(maps, judged.claims, judged.evidence, profile.prompts)
    evidence.arrays(REFERENCE.partition("--")[2], reference.arrays())
    claims, words = Recorded("judgements", "claims"), reference.claim_words
    told = words, reference.best, reference.roster, reference.texts(words)
    evidence.derived(reference_table, "reference", "The words of each claimed neuron", claims, *told)
    if audit.options.baseline is None:
        return
    before, after = read_run(audit.options.baseline), this_run(audit, judged, reference)
    found = diff(before, after)
    both = {of_all: compared(before, after, of_all=of_all) for of_all in (False, True)}
    for table in diff_tables(found):
        runs = both[table.name in OF_ALL]
        evidence.derived(since_table, table.name, table.title, table.name, *runs, claims)
    if found.losses:
        pytest.fail(f"since the baseline {found.message}", pytrace=False)


def this_run(audit: AuditSession, judged: Judged, reference: Reference) -> FinishedRun:
    """The run that is going on, as a finished one would be read."""
    lock = json.loads((audit.folder.path / "claims.lock.json").read_text(encoding="utf-8"))
    # A run is partial for certain only when it has ended, so that this is left out of the comparison.
    results = {**audit.results("running"), "verdicts": [v.record() for v in judged.verdicts]}
    return FinishedRun("this run", results, lock, reference)
