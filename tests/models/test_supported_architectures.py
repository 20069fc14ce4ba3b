"""The registry: it and the table of fixtures name the same families, and what is not in it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from fixtures.architectures import ARCHITECTURES, HIDDEN, LAYERS, make
from flashinterp.errors import LayoutError
from flashinterp.models.architectures import FAMILIES, Family, Stream, check_family, family_of
from flashinterp.models.checkpoint import open_checkpoint
from flashinterp.models.layout_reader import layout_of
from flashinterp.models.supported import supported
from tests.architecture_cases import by_kind
from tests.helpers import assert_one_line_with_next_step

# What the project promises; an entry may be added, and none may go.
PROMISED = (
    "llama mistral qwen2 qwen3 smollm3 gemma2 gemma3_text gemma3 phi3 olmo2 granite cohere gpt2 gpt_neox opt gptj glm4 "
    "mixtral qwen3_moe gpt_oss olmoe deepseek_v3"
).split()


def test_every_family_has_a_fixture_and_every_fixture_a_family() -> None:
    assert {one.model_type for one in ARCHITECTURES.values()} == set(FAMILIES)
    assert FAMILIES.keys() <= ARCHITECTURES.keys(), "the first fixture of a family has its name"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_tried_with_both_kinds_of_head(name: str) -> None:
    assert {one.tied for one in ARCHITECTURES.values() if one.model_type == name} == {False, True}


def test_no_promised_family_is_missing() -> None:
    assert set(PROMISED) <= set(FAMILIES)


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_the_places_that_an_entry_names_are_there(name: str) -> None:
    model = make(ARCHITECTURES[name])
    layout, family = layout_of(model), family_of(model.config)
    assert layout.family == family
    assert family.stream in get_args(Stream)
    for layer in range(layout.n_layers):
        for kind in ("pre", "post"):
            path = layout.norm(kind, layer)  # type: ignore[arg-type]
            assert path is None or model.get_submodule(path).weight.shape == (layout.d_model,)
    assert layout.vocab_size == model.lm_head.weight.shape[0] == ARCHITECTURES[name].vocab
    assert layout.d_model == HIDDEN
    assert layout.n_layers == LAYERS


@pytest.mark.parametrize("name", FAMILIES)
def test_an_entry_says_what_is_special(name: str) -> None:
    """The table of supported models is made of this; what is like llama needs no remark."""
    family = family_of(make(ARCHITECTURES[name]).config)
    assert family.remark or replace(family, models="") == Family()
    assert family.models


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_of_models_says_what_a_model_of_the_family_has(name: str) -> None:
    layout = layout_of(make(ARCHITECTURES[name]))
    (line,) = [line for line in supported().splitlines() if line.startswith(f"| `{name}` |")]
    lenses = {5: "all five", 4: "all but `gate`"}[len(layout.lenses)]
    sites = ", ".join(f"`{site}`" for site in layout.sites)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [f"`{name}`", layout.family.models, lenses, sites, layout.family.remark]


# --- where the config decides -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"model_type": "gpt_neox", "use_parallel_residual": True}, {"stream": "parallel"}),
        ({"model_type": "gpt_neox", "use_parallel_residual": False}, {"stream": "added"}),
        (
            {"model_type": "opt", "do_layer_norm_before": True},
            {"pre_norm": "final_layer_norm", "post_norm": None, "stream": "added"},
        ),
        (
            {"model_type": "opt", "do_layer_norm_before": False},
            {"pre_norm": None, "post_norm": "final_layer_norm", "final_norm": None, "stream": "added, then normed"},
        ),
        ({"model_type": "gemma3"}, {"softcap": ""}),
        ({"model_type": "gemma3_text"}, {"softcap": "final_logit_softcapping"}),
    ],
)
def test_a_family_follows_its_config(config: dict[str, Any], wanted: dict[str, Any]) -> None:
    family = family_of(SimpleNamespace(**config))
    assert {name: getattr(family, name) for name in wanted} == wanted


# --- what is not known ------------------------------------------------------------------------------


def test_a_known_name_is_returned() -> None:
    assert [check_family(name) for name in FAMILIES] == list(FAMILIES)


@pytest.mark.parametrize("unknown", ["bert", "LLAMA", "", "llama ", None, 3, ["llama"], {"llama": 1}])
def test_an_unknown_architecture_is_refused_with_the_known_ones(unknown: Any) -> None:
    for look in (check_family, lambda name: family_of(SimpleNamespace(model_type=name))):
        with pytest.raises(
            LayoutError, match="architecture .* is not known: known are arcee, cohere, cohere2, "
        ) as caught:
            look(unknown)
        assert all(name in str(caught.value) for name in FAMILIES)
        assert "flashinterp/models/architectures.py" in str(caught.value)
        assert_one_line_with_next_step(caught.value)


def test_a_config_without_a_model_type_is_refused() -> None:
    with pytest.raises(LayoutError, match="architecture None is not known"):
        family_of(SimpleNamespace())


def test_a_folder_of_an_unknown_architecture_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom"}))
    (tmp_path / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    with pytest.raises(LayoutError, match="architecture 'bloom' is not known") as caught:
        open_checkpoint(tmp_path)
    assert_one_line_with_next_step(caught.value)
