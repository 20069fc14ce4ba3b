"""The report: the answer first, nothing active in it, and hostile text inert."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flashinterp.errors import RunError
from flashinterp.report.charts.neurons import spikes
from flashinterp.report.charts.shares import preservation
from flashinterp.report.figure import Figure
from flashinterp.report.html import ANSWERS, CATALOGUE, group, render_html, render_markdown
from flashinterp.report.table import Table

HOSTILE = "</script></style></title><img src=x onerror=alert(1)>\"'`|\u202e\x00\x1b[31m{{7*7}}"
PAIR = ("unclamped", "clamped")
SELF_TEST = "SELF-TEST on bundled models: not an audit of a real model"
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "h3", "p"),
    *("nav", "ol", "ul", "li", "main", "section", "span", "div", "table", "caption", "thead"),
    *("tbody", "tr", "th", "td", "code", "dl", "dt", "dd", "br", "figure", "figcaption"),
    *("details", "summary", "b", "em", "script", "svg", "g", "defs", "clippath", "path", "use", "rect", "text"),
}


WRITES = {
    "q": 0.011,
    "figures": {"effect": 3.2, "effect_low": 1.91, "effect_high": 4.55, "rank_p": 3 / 111, "n_controls": 110.0},
}
READS = {"q": None, "figures": {"auc": 0.9844, "auc_low": None, "auc_high": None, "rank_p": None}}


class Page(HTMLParser):
    """What a browser would find in a page: tags with their attributes, headings, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def results(text: str = "plain", **changes: Any) -> dict[str, Any]:
    """A results.json with ``text`` wherever a model, a tokenizer or a user can put some."""
    verdict = dict.fromkeys(("id", "token", "neuron", "lens", "pole", "reason"), text)
    return {
        "schema_version": 1,
        "self_test": False,
        "partial": False,
        "status": text,
        "model": {"id": text, "digests": {text: text}},
        "tuned": {"id": text},
        "environment": {text: text},
        "seed": 0,
        "profile": text,
        "options": {"tokens": [text], "nested": [{text: text}]},
        "ledger": {"failed": 1, "collected": 3, "reasons": {"skipped": [text], text: [{text: 1}]}},
        "verdicts": [
            verdict | {"verdict": "validated", "figures": {"q": 0.01, text: [text], "writes": WRITES, "reads": READS}},
            verdict | {"verdict": "lever", "figures": {"q": None}},
            verdict | {"verdict": "validated"},
        ],
        "tables": [],
        "limits": [text],
        "known_limits": [{"id": "FI-L001", "title": text, "claim": text, "page": text}],
        **changes,
    }


def tables(text: str = "plain") -> list[Table]:
    rows = tuple((text, i) for i in range(20))
    return [
        Table("test_paper--words", text, ("token", text), rows, text, text),
        Table("test_paper--catalogue", text, ("neuron", "words"), (("L0N1", text),), text),
        Table("test_paper--answers", text, (text, "unclamped", "clamped"), ((text, text, text),), text),
        Table("loose", text, (text,), ()),
    ]


@cache
def drawn(text: str) -> tuple[Figure, ...]:
    grid = np.random.default_rng(3).exponential(0.2, (2, 30))
    return (
        spikes("test_paper--spikes", text, grid, [(7, text)]),
        preservation("test_keep--layers", text, [0, 1], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], 0.55),
    )


def figures(text: str = "plain") -> list[Figure]:
    return list(drawn(text))


def page(text: str = "plain", **changes: Any) -> str:
    docs = {"test_paper": f"First {text}.\n\nSecond {text}.\n\n- one\n- two", text: text}
    return render_html(results(text, **changes), tables(text), figures(text), docs)


def part(html: str, anchor: str) -> str:
    """One section of a page."""
    start = html.index(f'<section aria-labelledby="{anchor}">')
    return html[start : html.index("</section>", start)]


def test_the_answer_comes_before_everything_but_the_banners() -> None:
    html = page(self_test=True, partial=True)
    order = [
        SELF_TEST,
        "PARTIAL RUN",
        "Status: plain",
        'id="contents"',
        'id="answer"',
        "3 claims were judged: 2 validated and 1 lever.",
        'id="subject"',
        'id="eval-0"',
        'id="catalogue"',
        'id="ledger"',
        'id="limits"',
        'id="check"',
    ]
    places = [html.index(mark) for mark in order]
    assert places == sorted(places)


def test_tables_of_the_answer_stand_there_and_in_no_section_of_their_own() -> None:
    answers = Table(f"{ANSWERS}--paper", "In short", ("there", "here"), (("a dog", "<b>dog</b> L1N17"),))
    html = render_html(results(), [*tables(), answers], figures(), {})
    assert html.count("In short") == 1
    assert html.index('id="answer"') < html.index("In short") < html.index('id="subject"')
    assert "&lt;b&gt;dog&lt;/b&gt; L1N17" in html
    text = render_markdown(results(), [*tables(), answers])
    assert text.index("## The answer") < text.index("In short") < text.index("## What was audited")


@pytest.mark.parametrize("key", ["self_test", "partial"])
def test_a_real_whole_run_has_no_banner(key: str) -> None:
    changes: dict[str, Any] = {key: True}
    words = SELF_TEST if key == "self_test" else "PARTIAL RUN"
    assert words in page(**changes)
    assert words not in page()
    assert words in render_markdown(results(**changes), [])
    assert words not in render_markdown(results(), [])


def test_hostile_text_adds_no_tag_and_no_attribute() -> None:
    plain, hostile = Page(page()), Page(page(HOSTILE))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [set(attrs) for _, attrs in hostile.tags] == [set(attrs) for _, attrs in plain.tags]
    assert {tag for tag, _ in plain.tags} <= ALLOWED


def test_hostile_text_is_still_there_to_be_read() -> None:
    assert HOSTILE.partition("\u202e")[0] in Page(page(HOSTILE)).text


def test_no_hidden_character_is_left() -> None:
    for rendered in (page(HOSTILE), markdown(HOSTILE)):
        assert not {"\u202e", "\x00", "\x1b"} & set(rendered)


def markdown(text: str) -> str:
    return render_markdown(results(text), tables(text))


def test_hostile_text_adds_no_line_to_the_markdown() -> None:
    newline = "a\n# b\n| c |\n"
    assert len(markdown(newline).splitlines()) == len(markdown("plain").splitlines())
    assert "<img" not in markdown(HOSTILE).replace("\\<img", "")


def test_a_megabyte_of_text_does_not_swell_the_page() -> None:
    assert len(page("x" * 1_000_000)) < 2_000_000


def test_nothing_points_outside_the_page() -> None:
    for tag, attrs in Page(page("http://h.example/x.js")).tags:
        for name, value in attrs.items():
            if name in ("href", "src", "action", "data", "srcset", "poster", "xlink:href"):
                assert tag in ("a", "use")
                assert value is not None
                assert value.startswith("#")
            assert not name.startswith("on")


def test_the_policy_allows_the_one_script_by_its_digest() -> None:
    html = page(HOSTILE)
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src " in html
    assert f"'sha256-{digest}'" in html
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", scripts[0])


def test_every_link_and_label_finds_its_target_and_ids_are_unique() -> None:
    tags = Page(page(HOSTILE)).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in tags:
        target = attrs.get("href", "#")
        assert target is not None
        assert target == "#" or target[1:] in ids
        assert attrs.get("aria-labelledby", ids[0]) in ids


def test_headings_descend_one_level_at_a_time() -> None:
    levels = [int(tag[1]) for tag, _ in Page(page()).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= former + 1 for former, later in pairwise(levels))


def test_tables_have_captions_and_figures_have_words() -> None:
    tags = Page(page()).tags
    names = [tag for tag, _ in tags]
    assert names.count("caption") == names.count("table") > 0
    described = [attrs for _, attrs in tags if attrs.get("role") == "img"]
    assert names.count("figure") == len(described) == 2
    assert all(attrs["aria-label"] for attrs in described)


def test_a_verdict_is_told_by_its_word_as_well_as_its_colour() -> None:
    html = page()
    assert html.count('<span class="badge validated">validated</span>') == 3
    assert '<span class="badge lever">lever</span>' in html


def test_an_unknown_verdict_is_shown_as_it_is() -> None:
    html = page(verdicts=[{"id": "a", "verdict": 'odd" onclick="x'}])
    assert '<span class="badge unknown">odd&#34; onclick=&#34;x</span>' in html


def test_tables_and_figures_stand_with_their_eval() -> None:
    html = page()
    paper = html[html.index('id="eval-0"') : html.index('id="eval-1"')]
    assert "test_paper--spikes-" in paper
    assert "test_keep--layers-" not in paper
    assert paper.count("<table>") == 1
    assert paper.count('class="pair"') == 1


def test_group_keeps_the_order_and_names_no_eval() -> None:
    names = ["b--x", "a--y", "b--z--w", "loose"]
    grouped = group([Table(name, "T", ("a",), ()) for name in names])
    assert {key: [item.name for item in items] for key, items in grouped.items()} == {
        "b": ["b--x", "b--z--w"],
        "a": ["a--y"],
        "": ["loose"],
    }


def test_the_docstring_becomes_paragraphs() -> None:
    html = page()
    assert '<p class="text">First plain.</p>' in html
    assert '<p class="list">- one<br>- two</p>' in html


def test_the_ledger_counts_first_and_then_says_why() -> None:
    html = page()
    ledger = html[html.index('id="ledger"') :]
    assert ledger.index(">collected<") < ledger.index(">failed<") < ledger.index("Skipped: the rea")


def test_settings_without_a_place_of_their_own_are_shown_too() -> None:
    assert "<dt>dose_grid · low</dt><dd>-500</dd>" in page(dose_grid={"low": -500})


@pytest.mark.parametrize("bare", [{}, {"model": None, "verdicts": None, "ledger": None}], ids=["missing", "null"])
def test_missing_keys_leave_their_part_empty(bare: dict[str, Any]) -> None:
    html = render_html(bare, [], [], {})
    assert "No claim was judged" in html
    assert "Status: not recorded" in html
    assert "No claim was judged" in render_markdown(bare, [])


def test_each_claim_is_told_with_its_numbers() -> None:
    answer = part(page(), "answer")
    assert answer.count('class="claim"') == 3
    assert "3.20 nats [1.91, 4.55] in the claimed direction, which multiplies its odds by 24.5" in answer
    assert "2 of 110 matched neurons move it as much for what they write; q = 0.0110." in answer
    assert "higher on the token than on another word (AUC) is 0.984." in answer


def test_the_words_of_the_report_are_explained() -> None:
    answer = part(page(), "answer")
    for word in ("neuron", "lens", "pole", "clamp", "natural range", "log-odds, nats", "controls", "AUC", "q"):
        assert f"<dt>{word}</dt>" in answer


def test_what_failed_is_said_at_the_top() -> None:
    failed = page(status="failed", ledger={"passed": 3, "failed": 1})
    assert '<p class="banner failed" role="note">Status: failed. Of its tests: 3 passed, 1 failed.' in failed
    assert 'class="banner failed"' not in page(status="passed", ledger={"passed": 3, "failed": 0})


def test_the_models_stand_side_by_side_with_their_digests() -> None:
    model = {"name": "a", "hidden_size": 8, "digests": {"model.safetensors": "12ab"}}
    subject = part(page(model=model, tuned=model | {"name": "b"}), "subject")
    assert '<td class="short">a</td><td class="short">b</td>' in subject
    assert subject.index("sha256 of model.safetensors") < subject.index("hidden size")
    assert subject.count("12ab") == 2


def test_dtype_and_device_are_among_what_is_told_first() -> None:
    options = {"passed": {"dtype": "auto"}, "resolved": {"dtype": "bfloat16", "device": "cuda"}}
    subject = part(page(options=options, environment={"gpu": "H200", "packages": {"torch": "2.13"}}), "subject")
    assert "<dt>dtype</dt><dd>bfloat16</dd>" in subject
    assert "<dt>device</dt><dd>H200</dd>" in subject
    assert "<dd>torch 2.13</dd>" in subject


def test_answers_stand_side_by_side_and_not_in_a_table() -> None:
    table = Table("talk--answers", "T", ("claim", *PAIR), (("dog", "I like the fox.", "I like the dog."),))
    talk = part(render_html({}, [table], [], {}), "eval-0")
    assert "<table>" not in talk
    assert re.findall(r'<span class="side">(.*?)</span><p>(.*?)</p>', talk) == [
        ("unclamped", "I like the fox."),
        ("clamped", "I like the dog."),
    ]


def test_numbers_under_the_same_headers_stay_a_table() -> None:
    table = Table("talk--rates", "T", ("claim", *PAIR), (("dog", 0.1, 0.9),))
    assert "<table>" in part(render_html({}, [table], [], {}), "eval-0")


def test_the_catalogue_has_a_part_of_its_own_that_is_searched() -> None:
    table = Table(f"words--{CATALOGUE}", "All", ("neuron", "words"), (("L0N1", "dog"), ("L0N2", "cat")))
    html = render_html({}, [table], [], {"words": "Words."})
    assert "<table>" not in part(html, "eval-0")
    assert 'data-filter="A word, or a name as L1N17"' in part(html, "catalogue")
    assert '<a href="#catalogue">' in html
    assert 'id="catalogue"' not in render_html({}, [], [], {})


def test_a_numbered_limit_leads_to_where_it_is_measured() -> None:
    docs = {"doses": "Doses. Limit FI-L001.", "other": "Nothing."}
    limits = part(render_html(results(), [], [], docs), "limits")
    assert 'Measured under <a href="#eval-0">Doses</a>' in limits
    assert "Measured under" not in part(render_html(results(), [], [], {}), "limits")


def test_figures_are_numbered_in_the_order_in_which_they_stand() -> None:
    html = render_html(results(), [], figures()[::-1], {"test_paper": "x", "test_keep": "y"})
    assert re.findall(r"<b>(Figure \d)\.</b>", html) == ["Figure 1", "Figure 2"]
    assert html.index("Figure 1.") < html.index("test_keep--layers-") < html.index("Figure 2.")


def test_a_long_caption_is_folded() -> None:
    figure = replace(figures()[0], alt="A curve; " * 60)
    html = render_html({}, [], [figure], {})
    assert "What it shows, in numbers</summary>A curve" in html


def test_code_and_stress_in_a_docstring_are_marked_after_escaping() -> None:
    html = render_html({}, [], [], {"a": "Use `<b>x</b>` and ``--y``, *not this*, 2 * 3 * 4."})
    assert "Use <code>&lt;b&gt;x&lt;/b&gt;</code> and <code>--y</code>, <em>not this</em>, 2 * 3 * 4." in html


def test_how_a_test_works_is_told_apart_from_what_it_says() -> None:
    html = render_html({}, [], [], {"a": "What.\n\n### One\n\nImplementation: how."})
    assert '<p class="method">Implementation: how.</p>' in html


def test_the_same_results_give_the_same_page() -> None:
    first = page()
    drawn.cache_clear()  # the figures are drawn again, too
    assert page() == first


def test_a_figures_colours_and_ids_are_the_pages() -> None:
    html = page()
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "var(--fig-blue)" in svg
    assert "#0072b2" not in svg.lower()
    assert 'id="test_paper--spikes-figure_1"' in svg
    assert "url(#test_paper--spikes-" in svg


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<foreignObject><p>x</p></foreignObject>",
        '<path onload="alert(1)"/>',
        '<path ONCLICK="alert(1)"/>',
        '<use href="http://h.example/x.svg#a"/>',
        '<use xlink:href="data:image/svg+xml,x"/>',
        '<a href="#x"><text>x</text></a>',
        '<image href="#x"/>',
        "<style>* { fill: red }</style>",
        '<rect style="fill: url(http://h.example/x)"/>',
        '<rect style="fill: \\75rl(http://h.example/x)"/>',
        '<rect fill="URL( //h.example/x )"/>',
        '<animate attributeName="href" to="http://h.example"/>',
        '<set attributeName="onclick" to="x"/>',
        "<h:script xmlns:h='http://www.w3.org/1999/xhtml'>alert(1)</h:script>",
        "<text>unclosed",
        "<g>" * 5000 + "</g>" * 5000,
    ],
    ids=[
        *("script", "foreign-object", "handler", "handler-in-capitals", "address"),
        *("data-address", "link", "image", "style-sheet", "url-in-style", "url-escaped"),
        *("url-in-fill", "animate", "set", "html-script", "unclosed", "deep"),
    ],
)
def test_a_drawing_with_more_than_shapes_and_text_is_refused(inside: str) -> None:
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    figure = replace(figures()[0], svg=f"{head}{inside}</svg>")
    with pytest.raises(RunError, match="figure test_paper--spikes holds") as caught:
        render_html(results(), [], [figure], {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "svg",
    [
        '<!DOCTYPE svg [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>',
        "<html></html>",
        "",
    ],
    ids=["entity", "html", "empty"],
)
def test_what_is_not_one_svg_is_refused(svg: str) -> None:
    with pytest.raises(RunError, match="plain shapes and text only"):
        render_html(results(), [], [replace(figures()[0], svg=svg)], {})


def test_text_in_a_drawing_is_escaped_again() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg"><title><b/></title>'
        "<text>&lt;img src=x onerror=alert(1)&gt;\u202e</text></svg>"
    )
    html = render_html(results(), [], [replace(figures()[0], svg=svg)], {})
    assert "<text>&lt;img src=x onerror=alert(1)&gt;\\u{202e}</text>" in html
    assert "<b" not in html[html.index("<svg") : html.index("</svg>")]
