"""A clamp in a checkpoint is the clamp of the hooks, in every architecture that can hold one; the others say no."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from fixtures.architectures import ARCHITECTURES
from flashinterp.errors import CheckpointError, ClampError, FlashinterpError, LayoutError, NeuronError
from flashinterp.interventions import clamp_export
from flashinterp.interventions.clamp import clamp
from flashinterp.interventions.clamp_export import MOST_ROUNDING, SWITCHES, Exported, export_clamped
from flashinterp.models.architectures import FAMILIES
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.layout_reader import layout_of, skeleton
from flashinterp.neurons import NeuronId, Site
from tests.architecture_cases import DISTINCT, Case, by_kind
from tests.examples import examples
from tests.helpers import DOWN, GATE, UP, assert_one_line_with_next_step, edited_copy, n_hooks, shard

ALWAYS = {"gpt2", "gpt_neox", "gptj", "phi"}  # their MLPs have biases, whatever the config says
EXACT = ALWAYS | SWITCHES.keys()
IDS = torch.tensor([[3, 141, 59, 265, 35, 897, 93, 238, 462], [643, 38, 327, 950, 288, 41, 971, 693, 99]])

CAN = [name for name in DISTINCT if name.split("-")[0] in EXACT]
CANNOT = [name for name in DISTINCT if name not in CAN]


def _logits(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(IDS, use_cache=False).logits
    return logits


def _clamped(model: Any, clamps: Mapping[Any, float], site: Site) -> Tensor:
    with clamp(model, clamps, site=site):
        return _logits(model)


def _loaded(folder: Path, **kwargs: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **kwargs).eval()


def _off(a: Tensor, b: Tensor) -> float:
    """Largest difference of two sets of logits, in steps of float32 at the largest."""
    return float((a - b).abs().max() / b.abs().max()) / torch.finfo(torch.float32).eps


MOST_STEPS = 256.0  # three layers of sums of 32 to 48 terms; a wrong neuron or value is off by 10^5 and more


def _refused(error: type[FlashinterpError], match: str, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(error, match=match) as caught:
        export_clamped(*args, **kwargs)
    assert_one_line_with_next_step(caught.value)


# --- every architecture -----------------------------------------------------------------------------


def test_every_architecture_is_exact_or_refused() -> None:
    assert {name.split("-")[0] for name in CAN} == EXACT
    assert len(CANNOT) > 10


@pytest.mark.parametrize("name", by_kind(CAN))
@examples(8)
@given(data=st.data())
def test_the_export_is_the_clamped_model(case: Callable[[str], Case], name: str, data: st.DataObject) -> None:
    this = case(name)
    layout = this.checkpoint.layout
    site = data.draw(st.sampled_from(layout.sites))
    neurons = st.builds(NeuronId, st.integers(0, layout.n_layers - 1), st.integers(0, layout.roster.width(0) - 1))
    clamps = data.draw(st.dictionaries(neurons, st.floats(-20, 20, width=32), min_size=1, max_size=5))
    with tempfile.TemporaryDirectory() as work:
        made = export_clamped(this.checkpoint, clamps, Path(work) / "made", site=site)
        exported = _loaded(made.folder)
        assert n_hooks(exported) == 0
        assert made.stored == made.asked == clamps  # float32 holds what was drawn
        assert _off(_logits(exported), _clamped(this.model, clamps, site)) < MOST_STEPS


@pytest.mark.parametrize("name", by_kind(CANNOT))
def test_what_cannot_be_exact_is_refused_by_name(case: Callable[[str], Case], tmp_path: Path, name: str) -> None:
    checkpoint = case(name).checkpoint
    blocks = checkpoint.layout.roster.blocks
    for site in checkpoint.layout.sites:
        for block in (blocks[0], blocks[-1]):
            neuron = NeuronId(block.layer, 3, block.expert)
            told = f"{neuron} cannot be exported" if block.expert is not None else f"clamp at {site} cannot be exported"
            _refused(ClampError, told, checkpoint, {neuron: 2.0}, tmp_path / "made", site=site)
            _refused(ClampError, checkpoint.layout.model_type, checkpoint, {neuron: 2.0}, tmp_path / "made", site=site)
    assert not list(tmp_path.iterdir())


def test_the_switches_are_those_that_transformers_has() -> None:
    """Of every family, each switch of its config is turned on by itself: it gives the MLP biases, or it is not one."""
    found = {}
    for one in (ARCHITECTURES[name] for name in DISTINCT):
        config: Any = AutoConfig.for_model(one.model_type, **one.config)
        text = config.get_text_config()
        for name in [name for name, value in vars(text).items() if "bias" in name and isinstance(value, bool)]:
            has = []
            for value in (False, True):
                setattr(text, name, value)
                layout = layout_of(skeleton(config))
                dense = [block for block in layout.roster.blocks if block.expert is None]
                has.append(any(layout.weight(kind, block).bias for block in dense for kind in ("up", "down")))
            if has == [False, True]:
                found[one.model_type] = name
    assert {ARCHITECTURES[name].model_type for name in DISTINCT} == FAMILIES.keys()
    assert found == SWITCHES


LOADER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
work = Path(sys.argv[1])
ids = load_file(work / "ids.safetensors")["ids"]
logits = {}
for folder in sorted(path for path in work.iterdir() if path.is_dir()):
    with torch.no_grad():
        logits[folder.name] = AutoModelForCausalLM.from_pretrained(folder)(ids, use_cache=False).logits
save_file(logits, work / "logits.safetensors")
assert "flashinterp" not in sys.modules
"""


@pytest.mark.slow  # another process imports torch; every architecture
def test_plain_transformers_loads_every_export(case: Callable[[str], Case], tmp_path: Path) -> None:
    """In a process of its own, which does not import this project; and all architectures in it."""
    wanted = {}
    for name in CAN:
        layout = case(name).checkpoint.layout
        for number, site in enumerate(layout.sites):
            clamps = {NeuronId(0, 5 + number): 3.5, NeuronId(2, 40): -7.25}
            export_clamped(case(name).checkpoint, clamps, tmp_path / f"{name} {site}", site=site)
            wanted[f"{name} {site}"] = _clamped(case(name).model, clamps, site), _logits(case(name).model)
    save_file({"ids": IDS}, tmp_path / "ids.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = load_file(tmp_path / "logits.safetensors")
    assert found.keys() == wanted.keys()
    for name, (clamped, clean) in wanted.items():
        assert _off(found[name], clamped) < MOST_STEPS, name
        assert _off(clean, clamped) > 1000 * MOST_STEPS, name  # the control: what is compared is the clamp


# --- on one architecture ----------------------------------------------------------------------------


@pytest.fixture
def made(planted: Checkpoint, tmp_path: Path) -> Exported:
    return export_clamped(planted, {"L1N17": 20.0, "L1N3": -4.5, "L3N200": 0.0}, tmp_path / "made")


def test_what_is_written_for_up(planted: Checkpoint, made: Exported) -> None:
    assert planted.folder is not None
    before, after = load_file(planted.folder / "model.safetensors"), load_file(made.folder / "model.safetensors")
    row, bias = UP.format(1), UP.format(1).replace("weight", "bias")
    assert not after[row][[3, 17]].any()
    assert after[bias][[3, 17]].tolist() == [-4.5, 20.0]
    assert int((after[bias] != 0).sum()) == 2
    rest = [n for n in range(256) if n not in (3, 17)]
    assert torch.equal(after[row][rest], before[row][rest])
    assert not after[UP.format(3)][200].any()
    assert not any(tensor.any() for name, tensor in after.items() if name not in before and name != bias)
    assert all(torch.equal(after[n], before[n]) for n in before if n not in (row, UP.format(3)))
    config = json.loads((made.folder / "config.json").read_text())
    assert (config["mlp_bias"], config["attention_bias"]) == (True, False)
    assert (made.switch, made.dtype, made.site) == ("mlp_bias", "float32", "up")


def test_what_is_written_for_post(planted: Checkpoint, tmp_path: Path) -> None:
    assert planted.folder is not None
    values = {17: 20.0, 60: -3.0}
    made = export_clamped(planted, {f"L1N{n}": v for n, v in values.items()}, tmp_path / "made", site="post")
    before, after = load_file(planted.folder / "model.safetensors"), load_file(made.folder / "model.safetensors")
    columns = before[DOWN.format(1)].double()
    wanted = sum(value * columns[:, n] for n, value in values.items())
    assert torch.equal(after[DOWN.format(1).replace("weight", "bias")], torch.as_tensor(wanted).float())
    assert not after[DOWN.format(1)][:, [17, 60]].any()
    assert torch.equal(after[UP.format(1)], before[UP.format(1)])


def test_biases_that_are_there_keep_their_values(case: Callable[[str], Case], tmp_path: Path) -> None:
    checkpoint = case("llama-bias").checkpoint
    assert checkpoint.folder is not None
    before = load_file(checkpoint.folder / "model.safetensors")
    bias = GATE.format(1).replace("weight", "bias")
    made = export_clamped(checkpoint, {"L1N17": 2.5}, tmp_path / "made", site="gate")
    after = load_file(made.folder / "model.safetensors")
    before[bias][17] = 2.5
    assert torch.equal(after[bias], before[bias])
    assert made.switch is None


def test_the_text_that_it_writes_is_the_clamped_model_s(
    planted: Checkpoint, planted_model: Any, made: Exported
) -> None:
    """Token by token, with the cache: every position is clamped, also those that are generated."""
    ids = planted.tokenizer("The people saw the", return_tensors="pt")["input_ids"]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with clamp(planted_model, made.stored):
        wanted = planted_model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    clean = planted_model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    found = _loaded(made.folder).generate(ids, attention_mask=torch.ones_like(ids), **settings)
    assert found.tolist() == wanted.tolist() != clean.tolist()


def test_an_export_is_a_checkpoint_and_can_be_exported_again(
    planted_model: Any, made: Exported, tmp_path: Path
) -> None:
    again = export_clamped(made.folder, {"L2N5": 6.0}, tmp_path / "again")
    assert again.switch is None
    wanted = _clamped(planted_model, {**made.stored, NeuronId(2, 5): 6.0}, "up")
    assert _off(_logits(_loaded(again.folder)), wanted) < MOST_STEPS
    note = json.loads((again.folder / "flashinterp.json").read_text())
    assert (note["clamps"], note["source"]["note"]["clamps"]["L1N17"]) == ({"L2N5": 6.0}, 20.0)


def test_shards_stay_shards(planted: Checkpoint, planted_model: Any, tmp_path: Path) -> None:
    assert planted.folder is not None
    source = edited_copy(planted.folder, tmp_path / "source")
    shard(source, 3)
    made = export_clamped(source, {"L0N9": 8.0, "L3N9": 8.0}, tmp_path / "made")
    assert len(list(made.folder.glob("*.safetensors"))) == 3
    assert _off(_logits(_loaded(made.folder)), _clamped(planted_model, made.stored, "up")) < MOST_STEPS


def test_no_model_is_built(planted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", never)
    export_clamped(planted, {"L1N17": 20.0}, tmp_path / "made")


# --- dtypes -----------------------------------------------------------------------------------------


def _in(dtype: torch.dtype, planted: Checkpoint, folder: Path) -> Checkpoint:
    assert planted.folder is not None

    def cast(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)

    return open_checkpoint(
        edited_copy(planted.folder, folder, cast, {"dtype": str(dtype).removeprefix("torch."), "torch_dtype": None})
    )


@pytest.mark.parametrize("site", ["up", "gate", "post"])
def test_a_value_is_rounded_as_the_hook_rounds_it(planted: Checkpoint, tmp_path: Path, site: Site) -> None:
    source = _in(torch.bfloat16, planted, tmp_path / "source")
    made = export_clamped(source, {"L1N17": 145.3}, tmp_path / "made", site=site)
    assert (made.asked, made.stored) == ({NeuronId(1, 17): 145.3}, {NeuronId(1, 17): 145.0})
    assert made.dtype == "bfloat16"
    note = json.loads((made.folder / "flashinterp.json").read_text())
    assert (note["clamps"], note["stored"]) == ({"L1N17": 145.3}, {"L1N17": 145.0})
    exported, model = _loaded(made.folder), source.load_model()
    assert exported.dtype == torch.bfloat16
    wanted = _clamped(model, {"L1N17": 145.3}, site)
    # At post a stored sum is rounded once more than the hook's; at the others nothing is.
    steps = 4 * torch.finfo(torch.bfloat16).eps if site == "post" else 0.0
    assert float((_logits(exported) - wanted).abs().max()) <= steps * float(wanted.abs().max())
    assert float((_logits(model) - wanted).abs().max()) > 20 * steps


@pytest.mark.parametrize(("value", "told"), [(1e5, "would store inf"), (1e-9, "would store 0"), (5e-8, "off by more")])
def test_a_value_that_the_dtype_does_not_hold_is_refused(
    planted: Checkpoint, tmp_path: Path, value: float, told: str
) -> None:
    source = _in(torch.float16, planted, tmp_path / "source")
    _refused(ClampError, told, source, {"L1N17": value}, tmp_path / "made")
    export_clamped(source, {"L1N17": 60000.0}, tmp_path / "made")


def test_a_sum_that_the_dtype_does_not_hold_is_refused(planted: Checkpoint, tmp_path: Path) -> None:
    assert planted.folder is not None

    def loud(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].half()
        tensors[DOWN.format(1)][:, 17] = 100

    source = open_checkpoint(edited_copy(planted.folder, tmp_path / "source", loud, {"dtype": "float16"}))
    _refused(ClampError, "beyond torch.float16", source, {"L1N17": 1000.0}, tmp_path / "made", site="post")
    assert not (tmp_path / "made").exists()


@given(st.floats(1e-30, 1e30), st.sampled_from([torch.bfloat16, torch.float32]))
def test_the_stated_rounding_is_never_passed(value: float, dtype: torch.dtype) -> None:
    stored = clamp_export._rounded(NeuronId(0, 0), value, dtype)
    assert abs(stored - value) <= MOST_ROUNDING * value


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clamps", "site", "error", "match"),
    [
        ({}, "up", ClampError, "nothing to export"),
        ({"L1N17": 1.0, " L1N17": 2.0}, "up", ClampError, "named twice"),
        ({"L1N17": float("nan")}, "up", ClampError, "cannot be exported at nan"),
        ({"L1N17": torch.ones(3)}, "up", ClampError, "one number"),
        ({"L1N17": "much"}, "up", ClampError, "one number"),
        ({"L1N17": 1.0}, "down", ClampError, "unknown site"),
        ({"L1N999": 1.0}, "up", NeuronError, "L1N999"),
        ({"dog": 1.0}, "up", NeuronError, "not a neuron"),
    ],
)
def test_what_is_no_clamp_is_refused(
    planted: Checkpoint, tmp_path: Path, clamps: Any, site: Any, error: type[FlashinterpError], match: str
) -> None:
    _refused(error, match, planted, clamps, tmp_path / "made", site=site)
    assert not list(tmp_path.iterdir())


def test_there_is_no_gate_in_some(case: Callable[[str], Case], tmp_path: Path) -> None:
    _refused(LayoutError, "has no gate", case("gpt2").checkpoint, {"L1N17": 1.0}, tmp_path / "made", site="gate")


def test_files_that_cannot_be_copied_are_refused(planted: Checkpoint, planted_model: Any, tmp_path: Path) -> None:
    _refused(CheckpointError, "live model", planted_model, {"L1N17": 1.0}, tmp_path / "made")
    (tmp_path / "made").mkdir()
    _refused(CheckpointError, "is there already", planted, {"L1N17": 1.0}, tmp_path / "made")


# --- the test can fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["_zeroed", "_set", "_written"])
def test_a_fault_in_any_edit_shows(
    planted: Checkpoint, planted_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(clamp_export, fault, lambda *args: lambda tensor: tensor)
    site: Site = "post" if fault == "_written" else "up"
    made = export_clamped(planted, {"L1N17": 20.0}, tmp_path / "made", site=site)
    assert _off(_logits(_loaded(made.folder)), _clamped(planted_model, made.stored, site)) > 100 * MOST_STEPS
