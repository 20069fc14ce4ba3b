"""Where the method stops: words without a neuron of their own, and neurons that are not one word's alone.

In arXiv 2501.02688 "Dumbledore" has no neuron of its own: decoding leads to the "wizard" neuron, and clamping
that one brings wizards. "Sherlock" has its own. A name of several tokens has no row to decode at all; a neuron may
carry two words, and two neurons the same one. These are experiments with a result for every model, not failures to
hide. Each has a page in docs/limitations.
"""

from __future__ import annotations

import pytest

from flashinterp import Checkpoint
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.limitations.name_tables import names_found, names_table, several_tokens_table
from flashinterp.studies.limitations.names import name_leads, whole_name_leads
from flashinterp.studies.limitations.second_word import Likeness
from flashinterp.studies.limitations.shared_neuron_tables import (
    duplicates_table,
    two_concepts_table,
    two_word_effects,
)
from flashinterp.studies.limitations.shared_neurons import twin_pairs, two_word_carriers

NAMES = (" Dumbledore", " Sherlock", " Hermione", " Einstein", " Paris", " California", " dog")
MOST_NEURONS = 8  # of the claims, that are looked at for second words and twins
LEAST_EFFECT = 0.1  # nats of log-odds, as for a verdict

pytestmark = pytest.mark.usefixtures("model")  # which sees that no hook is left


@pytest.mark.limitation
def test_rare_names_lead_to_broader_neurons(
    audit: AuditSession, maps: LensMaps, bench: Experiment, evidence: EvalRecorder
) -> None:
    """For a list of names, whether the found neuron is the name's own, a broader one's, or noise.

    Implementation: a name that is one token is looked up as it is; one of several tokens by its first token and
    by the mean of its tokens' logits, each a row. The neuron is `own` if its best word is the name (in any
    written form), a `piece` if it is one of the name's several tokens, `broader` if another word is best and the
    name's (first) token is among its first ten, else `noise`.
    Then the neuron is driven over its natural range and the change of log-odds of both words is measured:
    what it brings is the word that is likelier at the end. Limit FI-L001.
    """
    leads = name_leads(bench, maps["paper"], NAMES)
    kept = evidence.value("leads", leads)
    evidence.derived(names_table, "names", "Where names lead (FI-L001)", kept)
    paper = '"Dumbledore" leads to a "wizard" neuron; "Sherlock" has its own'
    evidence.finding(6, paper, names_found, kept, audit.truth is not None)
    if audit.truth:
        by_name = {lead.name: lead for lead in reversed(leads)}
        wizard = next(p["name"] for p in audit.truth["plants"] if p["id"] == "wizard")
        dumbledore, sherlock = by_name[" Dumbledore"], by_name[" Sherlock"]
        assert str(dumbledore.found.neuron) == wizard
        assert dumbledore.best.text == audit.truth["dumbledore"]["leads_to"]
        assert (dumbledore.reading, sherlock.reading) == ("broader", "own")
        assert dumbledore.brings == 1, "clamping the wizard neuron should bring wizards"


# --- names of several tokens ----------------------------------------------------------------------------


@pytest.mark.limitation
def test_names_of_several_tokens(
    audit: AuditSession, base: Checkpoint, maps: LensMaps, bench: Experiment, evidence: EvalRecorder
) -> None:
    """A name of several tokens, looked up by its first token and by the mean of all: where it leads, and what comes.

    Implementation: the names of the list above, and the prompt set's concepts, that are no single token here. Each way
    gives a neuron, which is driven over its natural range; the effect on the *whole* name is the change of the sum of
    its tokens' log-probabilities, one after the other, after a held-out prompt. It stands beside the effect on its
    first token alone, which many other words may share, and on the neuron's best word. Limit FI-L008.
    """
    leads = whole_name_leads(bench, maps["paper"], (*NAMES, *bench.prompts.concepts), MOST_NEURONS)
    evidence.derived(several_tokens_table, "several-tokens", "Names of several tokens (FI-L008)", leads)
    if audit.truth:
        by_first = next(lead for lead in leads if lead.name.strip() == audit.truth["dumbledore"]["text"].strip())
        assert by_first.best.id == base.vocabulary.resolve(audit.truth["dumbledore"]["leads_to"]).id
        brought = by_first.effects[1]
        assert brought is not None
        assert brought > LEAST_EFFECT, "the neuron that the name leads to should bring its own word"


# --- two concepts in one neuron -------------------------------------------------------------------------


@pytest.mark.limitation
def test_two_concepts_in_one_neuron(
    audit: AuditSession,
    base: Checkpoint,
    maps: LensMaps,
    claims: tuple[Claim, ...],
    bench: Experiment,
    evidence: EvalRecorder,
) -> None:
    """Whether the claims' neurons carry a second, unrelated word, and what the clamp does to both.

    Implementation: the second word is that of another claim about the same neuron, or the best among the neuron's first
    ten words (by the claim's lens) whose row of the head is no more like the first word's than those of three in four
    random pairs of words are. The neuron is driven over its natural range, and both effects are compared with those
    on unrelated words: it *carries* a word that it raises by more than 95 % of these. Beside them, where each word
    itself drives the neuron: the median of u at the word, over held-out contexts. Two words that drive it to
    the same values cannot be told apart by a dose. Limit FI-L006.
    """
    likeness = Likeness.of(base, bench.words(), bench.rng("unrelated rows"))
    carriers = two_word_carriers(bench, maps, claims, likeness, MOST_NEURONS)
    title = "Two unrelated words of one neuron (FI-L006)"
    evidence.derived(two_concepts_table, "two-concepts", title, carriers, likeness.pairs)
    for known in (audit.truth or {}).get("two_concepts", []):
        words = {base.vocabulary.resolve(token).id for token in known["tokens"]}
        found = two_word_effects(carriers, likeness.pairs)
        one, effects = next(both for both in found if {word.id for word in both[1].words} == words)
        assert str(one.neuron) == known["neuron"]
        missing = [str(word) for word in effects.words if word not in effects.carried]
        assert not missing, f"{one.neuron} should bring {' and '.join(missing)}"


# --- neurons that do the same ---------------------------------------------------------------------------


@pytest.mark.limitation
def test_duplicated_neurons(
    audit: AuditSession, claims: tuple[Claim, ...], bench: Experiment, evidence: EvalRecorder
) -> None:
    """What silencing one of two neurons that do the same shows, beside silencing both and driving one.

    Implementation: a neuron's nearest twin is that of its MLP for which the smaller of two cosines, of what both read
    and of what both write, is the largest; both may be negative, which is the same function. Silenced is fixed at the
    mean of u on natural text, on held-out contexts with the claim's word after them, where the neuron is at work;
    driven is from one end of its natural range to the other, on held-out prompts. Of a true pair the silencing of one
    shows half of what the two do together, or less, whereas driving one brings the word. Limit FI-L007.
    """
    found = twin_pairs(bench, claims, 2 * MOST_NEURONS)
    evidence.derived(duplicates_table, "duplicates", "Neurons and their nearest twins (FI-L007)", found)
    pairs = {frozenset((str(one.claim.neuron), str(one.other))): one.effects for one in found}
    for pair in (audit.truth or {}).get("duplicates", []):
        silenced, driven = pairs[frozenset(pair)].silenced, pairs[frozenset(pair)].driven
        # Two thirds: a half where the two add up, and room for what the norm makes of the sum.
        assert max(abs(silenced[0]), abs(silenced[1])) < abs(silenced[2]) * 2 / 3, f"{pair} silenced: {silenced}"
        assert min(driven[0], driven[1]) > LEAST_EFFECT, f"{pair} driven: {driven}"
