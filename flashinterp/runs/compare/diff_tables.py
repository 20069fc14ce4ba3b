"""The comparison of two runs as tables: what moved, and what it rests on."""

from __future__ import annotations

from flashinterp.report.table import Table
from flashinterp.runs.compare.changes import Diff
from flashinterp.runs.compare.words import FATES, WordChange
from flashinterp.stats import Interval


def diff_tables(diff: Diff) -> list[Table]:
    """Roles, effects, the claimed neurons' words, all neurons' words, and the conditions; those that have rows."""
    made = [_roles(diff), *_effects(diff), _words(diff), *_labels(diff), _conditions(diff)]
    return [table for table in made if table is not None]


def _roles(diff: Diff) -> Table:
    rows = [
        (r.id, r.token, r.neuron, r.fate, r.before, r.after, r.heir, None if r.after == "validated" else r.reason)
        for r in diff.roles
    ]
    return Table(
        "roles",
        "Roles since the baseline",
        ("claim", "word", "neuron", "role", "before", "after", "moved to", "reason"),
        tuple(rows),
        "kept: validated in the baseline, the effect is shown to be the same and the neuron still fires where its word "
        "is, on whichever side of a threshold the verdict falls. changed: validated in both, and that is not shown. "
        "moved: another neuron is validated for the word now, which did not name it before. lost: validated in the "
        "baseline, and none of these. not measured: validated in the baseline, and now nothing is known. gained: "
        "validated now only. never: in neither",
    )


def _effects(diff: Diff) -> list[Table]:
    def cells(interval: Interval | None) -> list[float | None]:
        return [interval.estimate, interval.low, interval.high] if interval else [None] * 3

    sizes = Table(
        "effects",
        "Effects since the baseline",
        ("claim", "neuron", "before", "low", "high", "after", "low", "high", "AUC before", "AUC after"),
        tuple(
            (r.id, r.neuron, *cells(r.effect_before), *cells(r.effect_after), r.auc_before, r.auc_after)
            for r in diff.roles
        ),
        "The effect, nats of log-odds over the neuron's own natural range in each model, with its 95 % interval. AUC: "
        "of the neuron's output, the word against others",
    )
    pairs = [(r, r.difference) for r in diff.roles if r.difference is not None]
    if not pairs:
        return [sizes]
    change = Table(
        "change",
        "Effects since the baseline, prompt by prompt",
        ("claim", "neuron", "change", "low", "high", "margin", "shown to be the same"),
        tuple((r.id, r.neuron, d.estimate, d.low, d.high, d.margin, d.shown) for r, d in pairs),
        "The mean difference over the same prompts, nats of log-odds, with its 90 % interval. The effect is the same "
        "where all of it lies within the margin: a quarter of the effect before, 0.1 nats at least, half of it at most",
    )
    return [sizes, change]


def _words(diff: Diff) -> Table | None:
    if not diff.words:
        return None
    return Table(
        "words",
        "The claimed neurons' words since the baseline",
        ("claim", *_WORDS),
        tuple((w.id, *_word_cells(w)) for w in diff.words),
        "By each claim's own lens and pole, best first. Lead: the first word's logit above the second's",
    )


_WORDS = ("neuron", "best word", "words before", "lead before", "words", "lead", "moved to")


def _word_cells(word: WordChange) -> tuple[str | float | None, ...]:
    """A neuron with its best words in both runs, under `_WORDS`."""
    said = ", ".join(word.before), word.lead_before, ", ".join(word.after), word.lead_after
    return word.neuron, word.fate, *said, word.heir


def _labels(diff: Diff) -> list[Table]:
    if diff.labels is None:
        return []
    found = diff.labels
    share = found.share or Interval(0.0, None, None)
    counts = tuple(found.counts[fate] for fate in FATES)
    kept = (share.estimate if found.share else None, share.low, share.high)
    made = [
        Table(
            "labels",
            "The best words of all neurons since the baseline",
            ("neurons", *FATES, "share kept", "low", "high"),
            ((found.n, *counts, *kept),),
            "By the paper lens, positive pole; 95 % Wilson interval. Near tie: first and second word, within rounding "
            "in bfloat16, changed places. Moved: another neuron names the word now and did not before. Lost: none does",
        )
    ]
    if found.foremost:
        made.append(
            Table(
                "foremost",
                "The clearest words that were lost or moved",
                _WORDS,
                tuple(map(_word_cells, found.foremost)),
                "Of all neurons, whether a claim is about them or not",
                "the lead before",
            )
        )
    return made


def _conditions(diff: Diff) -> Table:
    rows = [(c.what, c.before or None, c.after or None, c.means) for c in diff.conditions]
    return Table(
        "conditions",
        "What else differs between the runs",
        ("what", "before", "after", "so"),
        tuple(rows) or (("nothing", None, None, "the runs differ in the model's weights alone"),),
        f"The baseline's results.json has sha256 {diff.baseline_sha256}" if diff.baseline_sha256 else "",
    )
