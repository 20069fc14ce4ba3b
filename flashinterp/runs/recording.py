"""The recording half of a session: what evals hand in goes to the folder at once, so that a kill keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from flashinterp.errors import RunError
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.judgement import Judged, Kept, keep_verdicts
from flashinterp.evaluation.verdict import Rule, Verdict
from flashinterp.provenance import derivation as derived
from flashinterp.provenance.derivation import Again, CallValues, Derivation
from flashinterp.provenance.recorded import Recorded
from flashinterp.report.figure import Figure
from flashinterp.report.paper_answers import Finding
from flashinterp.report.table import Table
from flashinterp.runs.folder.run_folder import RunFolder
from flashinterp.studies.finetuning.role_records import Roles, keep_roles
from flashinterp.studies.finetuning.roles import Role, RoleEvidence, RoleRule
from flashinterp.studies.lens_causality.ranking import Study
from flashinterp.studies.lens_causality.records import Studied, keep_study, studied


class Recording:
    """What `AuditSession` records: tables, figures, findings, raw numbers, judgements, and what follows from what."""

    folder: RunFolder
    tables: list[Table]
    figures: list[Figure]
    verdicts: list[dict[str, Any]]
    findings: list[Finding]
    judgements: list[dict[str, Any]]
    roles: list[dict[str, Any]]
    studies: list[dict[str, Any]]
    derivations: list[Derivation]
    _arrays: set[str]
    _held: Again

    def add_table(self, table: Table) -> None:
        """Keep a table.

        Raises:
            RunError: there is one of this name already, and it would be lost.
        """
        if any(t.name == table.name for t in self.tables):
            raise RunError(f"two tables are named {table.name!r}: give each its own name within the eval")
        self.folder.write_table(table)
        self.tables.append(table)

    def add_figure(self, figure: Figure) -> None:
        """Keep a drawing and the points that it draws; raises as `add_arrays`."""
        self.add_arrays(figure.name, figure.data)
        self.folder.write_figure(figure.name, figure.svg)
        self.figures.append(figure)

    def add_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep raw numbers.

        Raises:
            RunError: there are some of this name already, and they would be lost.
        """
        if name in self._arrays:
            raise RunError(f"two sets of raw numbers are named {name!r}: give each its own name")
        self.folder.write_arrays(name, arrays)
        self._arrays.add(name)

    def add_judgement(
        self, name: str, verdicts: Sequence[Verdict], evidence: Sequence[Evidence | str], *, rule: Rule, seed: int
    ) -> None:
        """Keep all that a family's verdicts rest on, so that `verify` can reach them again.

        The judgement named ``claims`` is that of the locked claims, on the model under audit.
        """
        self._keep(self.judgements, keep_verdicts(name, verdicts, evidence, rule=rule, seed=seed))
        claims = tuple(v.claim for v in verdicts)
        self._held.judgements[name] = Judged(claims, tuple(evidence), tuple(verdicts))

    def add_roles(
        self,
        name: str,
        roles: Sequence[Role],
        found: Sequence[RoleEvidence | str],
        *,
        base: str,
        words: Mapping[int, str],
        tuned: str | None = None,
        rule: RoleRule | None = None,
    ) -> None:
        """Keep all that roles rest on; see `flashinterp.studies.finetuning.role_records.keep_roles`."""
        kept = keep_roles(name, roles, found, base=base, tuned=tuned, rule=rule or RoleRule(), words=words)
        self._keep(self.roles, kept)
        both = self._held.judgements
        after = both[tuned].verdicts if tuned is not None else None
        self._held.roles[name] = Roles(list(roles), list(found), dict(words), both[base].verdicts, after)

    def add_study(self, prefix: str, found: Study, seed: int) -> Studied:
        """Keep all that a study of the lenses rests on; returns its results. See `keep_study`."""
        self._keep(self.studies, keep_study(prefix, found, seed))
        self._held.studies[prefix] = outcome = studied(found, seed)
        return outcome

    def _keep(self, records: list[dict[str, Any]], kept: Kept) -> None:
        if any(r["name"] == kept.record["name"] for r in records):
            raise RunError(f"two judgements are named {kept.record['name']!r}: give each its own name")
        for name, arrays in kept.arrays.items():
            self.add_arrays(name, arrays)
        records.append(kept.record)

    # --- what follows from recorded values, by a function that `verify` calls again ---------------------

    def add_value(self, name: str, value: Any) -> Recorded:
        """Keep a value that several tables and figures rest on; returns what stands for it among their values."""
        arrays, self._held.values[name] = derived.keep_value(value)
        self.add_arrays(name, arrays)
        return Recorded("values", name)

    def derive_table(self, make: Callable[..., Any], name: str, title: str, *args: Any, **kwargs: Any) -> None:
        """Keep a table, which the function makes of the values as headers, rows and caption.

        Raises:
            RunError: as `add_table`; or the function has no id; or a value cannot be kept in ``raw/``.
        """
        values = self._derivation(Derivation.by(make, "table", name), (title,), args, kwargs)
        headers, rows, caption = values.called(make, self._held.resolve)
        if not rows:
            raise RunError(f"the table {name} has no rows: record what was measured, or why nothing was")
        self.add_table(Table(name, title, tuple(headers), tuple(map(tuple, rows)), caption))

    def derive_figure(self, make: Callable[..., Any], name: str, title: str, *args: Any, **kwargs: Any) -> None:
        """Keep a figure, which the function draws of its name, title and the values; raises as `derive_table`."""
        values = self._derivation(Derivation.by(make, "figure", name), (title,), args, kwargs)
        self.add_figure(values.called(make, self._held.resolve, name, title))

    def derive_finding(self, make: Callable[..., Any], name: str, order: int, paper: str, *args: Any) -> None:
        """Keep a finding, of which the function makes the words: what is here, and what was planted or None."""
        values = self._derivation(Derivation.by(make, "finding", f"{name}--{order}"), (order, paper), args, {})
        self.add_finding(Finding(order, paper, *values.called(make, self._held.resolve)))

    def _derivation(
        self, derivation: Derivation, head: tuple[Any, ...], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> CallValues:
        """Keep the values; those that come back."""
        arrays, values = derived.keep(head, args, kwargs)
        self.add_arrays(derivation.raw, arrays)
        self.derivations.append(derivation)
        return values

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        self.verdicts += [v.record() for v in verdicts]

    def add_finding(self, finding: Finding) -> None:
        self.findings.append(finding)
