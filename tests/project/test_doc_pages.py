"""What the docs say: links lead somewhere, the shipped claim files and the tables of sizes are as the pages say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fixtures.storybook import models
from flashinterp.errors import ClaimError
from flashinterp.evaluation.claims import check_design, load_claims
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.neurons import LENSES
from tests.documents import DOCS, ROOT, blocks
from tests.helpers import assert_one_line_with_next_step

CLAIMS = ROOT / "fixtures" / "claims"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.relative_to(DOCS).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


# --- claim files ----------------------------------------------------------------------------------------


def test_the_storybooks_claims_are_what_was_planted() -> None:
    claims = load_claims(CLAIMS / "storybook.toml")
    said = [(c.id, c.token, str(c.neuron), c.pole, c.lens, c.expect) for c in claims]
    planted = [(p["id"], p["token"], p["name"], p["pole"], p["lens"], p["verdict"]) for p in models.truth()["plants"]]
    assert said == planted


def test_the_papers_claims_can_be_run() -> None:
    claims = load_claims(CLAIMS / "llama-3.1-8b.toml")
    neurons: dict[str, list[str]] = {}
    for claim in claims:
        neurons.setdefault(claim.group, []).append(str(claim.neuron))
    assert neurons["dog"] == ["L25N1442", "L25N1441"]
    assert neurons["california"] == ["L31N313", "L31N312"]
    assert neurons["sherlock"] == neurons["wizard"] == ["None"]
    assert {c.direction for c in claims if c.group == "california"} == {"-"}
    assert {c.expect for c in claims} == {"validated"}
    # 32 layers of 14,336 neurons: a candidate beyond them would stop the run.
    assert all(c.neuron is None or (c.neuron.layer < 32 and c.neuron.neuron < 14_336) for c in claims)
    for profile in PROFILES.values():
        check_design(len(claims), design(profile.name), 0.05)


def test_what_the_claim_file_cannot_hold_stands_beside_it() -> None:
    text = (CLAIMS / "llama-3.1-8b.toml").read_text(encoding="utf-8")
    for said in ("75.4 %", "L25N1442=145", "Dumbledore", "-500 to 500"):
        assert said in text
    named = set(re.findall(r"(\w+--\w+)", text)) | {"concept_steering--rates"}
    recorded = {path.stem.removeprefix("test_") for path in (ROOT / "evals").glob("test_*.py")}
    assert {table.partition("--")[0] for table in named} <= recorded


def test_the_format_page_shows_a_claim_that_can_be_read(tmp_path: Path) -> None:
    (block,) = [b for b in blocks((DOCS / "CLAIMS.md").read_text(encoding="utf-8")) if b.language == "toml"]
    path = tmp_path / "claims.toml"
    path.write_text(block.text, encoding="utf-8")
    assert [c.id for c in load_claims(path)] == ["dog/L25N1442", "dog/L25N1441"]
    page = (DOCS / "CLAIMS.md").read_text(encoding="utf-8")
    (entry,) = tomllib.loads(block.text)["claim"]
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) >= set(entry)
    assert all(f"`{lens}`" in page for lens in LENSES)


def design(profile: str, peers: int = 10_000) -> dict[str, int]:
    """The sizes that a profile's claims are checked against, in a layer of so many other neurons."""
    sizes = {name: getattr(PROFILES[profile], name) for name in ("prompts", "doses", "contexts", "absent")}
    return {"controls": min(PROFILES[profile].controls, peers), **sizes}


@pytest.mark.parametrize(
    ("profile", "peers", "most"),
    [("smoke", 319, 12), ("standard", 10_000, 12), ("audit", 10_000, 50), ("audit", 319, 16)],
)
def test_a_design_bears_as_many_claims_as_the_page_says(profile: str, peers: int, most: int) -> None:
    check_design(most, design(profile, peers), 0.05)
    with pytest.raises(ClaimError, match=f"at most {most} claims") as error:
        check_design(most + 1, design(profile, peers), 0.05)
    assert_one_line_with_next_step(error.value)
    page = (DOCS / "CLAIMS.md").read_text(encoding="utf-8")
    bears = re.search(r"has 319 and bears (\d+)", page)
    table = {name: int(n) for names, n in re.findall(r"^\| (`[\w`, ]+`) \| \d+ \| (\d+) \|$", page, re.MULTILINE)
             for name in re.findall(r"\w+", names)}  # fmt: skip
    assert bears is not None
    assert most == (int(bears[1]) if (profile, peers) == ("audit", 319) else table[profile])


# --- the mapping to standards ---------------------------------------------------------------------------


def test_the_mapping_claims_no_compliance_and_says_what_it_rests_on() -> None:
    page = (DOCS / "STANDARDS.md").read_text(encoding="utf-8")
    assert "**It claims no compliance.**" in page
    assert "from memory" in page
    rows = re.findall(r"^\| ((?:MEASURE )?[\d.]+(?:\(\w\))?) ", page, re.MULTILINE)
    assert {"MEASURE 1.1", "MEASURE 1.3", "MEASURE 2.1", "2(g)"} <= set(rows)
    assert '"' not in page  # paraphrase, no quotation
