"""Codes become the weights that they stand for, as transformers and bitsandbytes make them, or are refused by name.

Those of live modules are in ``test_quantised_live.py``, whole models in ``test_quantised_models.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GptOssConfig, LlamaConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from flashinterp.errors import CheckpointError
from flashinterp.quantised import dequantised, is_plain, live_weight
from flashinterp.sources import SafetensorsFolder
from tests.helpers import assert_one_line_with_next_step, fp8_codes, scales

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
MXFP4 = {"quant_method": "mxfp4"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
CHANNELS = {"quant_method": "compressed-tensors", "format": "float-quantized"}
UP = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"

LLAMA = LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    vocab_size=32,
)
GPT_OSS = GptOssConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    vocab_size=32,
    num_local_experts=3,
    num_experts_per_tok=2,
)


class InMemory:
    """A source that remembers what was asked of it."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors
        self.asked: list[str] = []

    def names(self) -> Iterable[str]:
        return self.tensors

    def tensor(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.tensors[name]

    def part(self, name: str, i: int) -> Tensor:
        self.asked.append(f"{name}[{i}]")
        return self.tensors[name][i]

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def digests(self) -> dict[str, str]:
        return {"a file": "its sha256"}


def weight_of(config: dict[str, Any] | None, name: str = UP, /, **beside: Tensor) -> Tensor:
    """One weight as it comes out; checked to be the same by its parts, and of the dtype that was promised."""
    source = dequantised(InMemory(**beside), config, "a model")
    assert list(source.names()) == [name]
    weight = source.tensor(name)
    assert weight.dtype == source.dtype(name)
    torch.testing.assert_close(torch.stack([source.part(name, i) for i in range(len(weight))]), weight, rtol=0, atol=0)
    return weight


def refusal(config: dict[str, Any] | None, name: str = UP, /, **beside: Tensor) -> str:
    """The message with which a weight is refused, in full and in part."""
    source = dequantised(InMemory(**beside), config, "a model")
    with pytest.raises(CheckpointError) as part:
        source.part(name, 0)
    with pytest.raises(CheckpointError) as whole:
        source.tensor(name)
    assert_one_line_with_next_step(part.value)
    assert_one_line_with_next_step(whole.value)
    return str(whole.value)


def saved(folder: Path, model: Any, quantisation: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """A model folder with these tensors and this quantization_config."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def llama() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LLAMA, dtype=torch.bfloat16).eval()


# --- what is not quantised --------------------------------------------------------------------------


def test_an_unquantised_source_is_returned_itself():
    plain = InMemory(**{UP: torch.zeros(2, 2, dtype=torch.bfloat16), "attn.mask": torch.ones(2, dtype=torch.uint8)})
    assert dequantised(plain, None, "a model") is plain


def test_a_quantised_source_gives_its_plain_tensors_and_its_digests_as_they_are():
    norm = torch.randn(3, dtype=torch.bfloat16)
    source = dequantised(InMemory(norm=norm), FP8, "a model")
    assert source.tensor("norm") is norm
    assert source.dtype("norm") == torch.bfloat16
    assert torch.equal(source.part("norm", 1), norm[1])
    assert source.digests() == {"a file": "its sha256"}


def test_codes_are_not_plain():
    assert is_plain(torch.zeros(2, dtype=torch.bfloat16))
    assert not is_plain(torch.zeros(2, dtype=torch.float8_e4m3fn))
    assert not is_plain(torch.zeros(2, dtype=torch.uint8))
    assert not is_plain(torch.zeros(2, device="meta"))
    packed = torch.zeros(2, dtype=torch.bfloat16)
    packed.quant_state = object()  # type: ignore[attr-defined]  # as bitsandbytes marks it
    assert not is_plain(packed)


# --- fp8 --------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    end=st.sampled_from(["_scale_inv", "_scale"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_fp8_code_is_multiplied_by_the_scale_of_its_block(rows, columns, block, end, seed):
    codes = fp8_codes(rows, columns, seed=seed)
    grid = scales(-(-rows // block[0]), -(-columns // block[1]), seed=seed)
    weight = weight_of({"quant_method": "fp8", "weight_block_size": list(block)}, **{UP: codes, UP + end: grid})
    expected = [
        [codes[r, c].double() * grid[r // block[0], c // block[1]].double() for c in range(columns)]
        for r in range(rows)
    ]
    torch.testing.assert_close(weight.double(), torch.tensor(expected), rtol=1e-7, atol=0)


def test_fp8_is_what_transformers_loads(tmp_path, llama):
    tensors = dict(llama.state_dict())
    block = 32
    for name, weight in list(tensors.items()):
        if "_proj" in name:
            tensors[name] = fp8_codes(*weight.shape)
            tensors[f"{name}_scale_inv"] = scales(*(size // block for size in weight.shape)) / 100
    quantisation = {"quant_method": "fp8", "weight_block_size": [block, block], "dequantize": True}
    folder = saved(tmp_path / "fp8", llama, quantisation, tensors)
    source = dequantised(SafetensorsFolder(folder), quantisation, "fp8")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert set(source.names()) == set(loaded)
    for name, weight in loaded.items():
        assert source.dtype(name) == (torch.float32 if "_proj" in name else torch.bfloat16)
        assert torch.equal(source.tensor(name).bfloat16(), weight), name
    assert source.digests() == SafetensorsFolder(folder).digests()


@pytest.mark.parametrize("config", [FP8, {"quant_method": "fp8"}])  # 128 is what transformers takes for granted
def test_the_config_says_the_block_size_and_not_the_shapes(config):
    codes, grid = torch.ones(192, 4).to(torch.float8_e4m3fn), torch.tensor([[1.0], [2.0]])
    weight = weight_of(config, **{UP: codes, f"{UP}_scale_inv": grid})
    assert weight[:128].unique().tolist() == [1.0]
    assert weight[128:].unique().tolist() == [2.0]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("config", [FP8, {**FP8, "weight_block_size": None}, CHANNELS, None])
def test_one_fp8_scale_is_for_the_whole_tensor(shape, config):
    codes = fp8_codes(5, 300)
    weight = weight_of(config, **{UP: codes, f"{UP}_scale": torch.full(shape, 0.25)})
    assert torch.equal(weight, codes.float() / 4)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("config", [FP8, {**FP8, "weight_block_size": None}, CHANNELS, None])
def test_as_many_fp8_scales_as_rows_are_one_for_each(shape, config):
    codes, grid = fp8_codes(5, 300), scales(*shape)
    assert torch.equal(weight_of(config, **{UP: codes, f"{UP}_scale": grid}), codes.float() * grid.reshape(5, 1))


@pytest.mark.parametrize("grid", [(3, 2, 2), (3, 1, 1), (3, 5, 1), (1,)])
def test_fused_fp8_experts_have_each_their_scales(grid):
    codes, factors = fp8_codes(3, 5, 6), scales(*grid)
    config = {"quant_method": "fp8", "weight_block_size": [3, 4]}
    weight = weight_of(config, EXPERTS, **{EXPERTS: codes, f"{EXPERTS}_scale_inv": factors})
    every = factors.expand(3, 1, 1) if factors.numel() == 1 else factors
    high, wide = {(2, 2): (3, 4), (1, 1): (5, 6), (5, 1): (1, 6)}[tuple(every.shape[1:])]
    scale = every.repeat_interleave(high, 1)[:, :5].repeat_interleave(wide, 2)[:, :, :6]
    assert torch.equal(weight, codes.float() * scale)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_mx_scales_are_powers_of_two(as_bytes):
    exponents = torch.tensor([[120, 127, 130], [0, 126, 128]], dtype=torch.uint8)
    stored = exponents if as_bytes else exponents.view(torch.float8_e8m0fnu)
    codes = fp8_codes(2, 70)
    weight = weight_of({"quant_method": "mxfp8"}, **{UP: codes, f"{UP}_scale_inv": stored})
    factors = torch.exp2(exponents.double() - 127).repeat_interleave(32, 1)[:, :70]
    assert torch.equal(weight.double(), codes.double() * factors)


def test_blocks_of_compressed_tensors_come_from_its_groups():
    weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [4, 2]}
    config = {**CHANNELS, "config_groups": {"group_0": {"weights": weights}}}
    codes, grid = fp8_codes(6, 3), scales(2, 2)
    weight = weight_of(config, **{UP: codes, f"{UP}_scale": grid, UP.replace("weight", "input_scale"): scales(1)})
    assert torch.equal(weight, codes.float() * grid.repeat_interleave(4, 0)[:6].repeat_interleave(2, 1)[:, :3])


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({}, "no scales"),
        ({"_scale_inv": scales(3, 1)}, r"scales of \(3, 1\)"),
        ({"_scale_inv": scales(1, 2, 1)}, r"scales of \(1, 2, 1\)"),
        ({"_scale_inv": scales(2, 1), "_scale": scales(2, 1)}, "_scale'"),
        ({"_scale": scales(2, 1), "_zero_point": scales(2, 1)}, "zero_point"),
    ],
)
def test_fp8_without_scales_that_fit_is_refused(beside, told):
    tensors = {UP: fp8_codes(200, 4), **{UP + end: tensor for end, tensor in beside.items()}}
    message = refusal(FP8, **tensors)
    assert UP in message
    assert re.search(told, message), message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
@pytest.mark.parametrize("config", [FP8, BNB, MXFP4, CHANNELS])
def test_integers_are_never_weights(dtype, config):
    codes = torch.ones(4, 4, dtype=dtype)
    assert str(dtype) in refusal(config, **{UP: codes})
    assert str(dtype) in refusal(config, **{UP: codes, f"{UP}_scale_inv": scales(4, 1)})


def test_codes_are_refused_though_no_config_tells_of_them():
    assert "float8" in refusal(None, **{UP: fp8_codes(4, 4)})
    with pytest.raises(CheckpointError, match="qweight") as caught:
        dequantised(InMemory(**{"up_proj.qweight": torch.ones(2, 2, dtype=torch.int32)}), None, "a model")
    assert_one_line_with_next_step(caught.value)


# --- mxfp4 ------------------------------------------------------------------------------------------


def mxfp4_codes(experts: int, outputs: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=random, dtype=torch.uint8)
    exponents = torch.randint(100, 130, (experts, outputs, inputs // 32), generator=random, dtype=torch.uint8)
    return blocks, exponents


def test_mxfp4_is_what_transformers_loads(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT_OSS, dtype=torch.bfloat16)
    tensors = {}
    for seed, (name, weight) in enumerate(model.state_dict().items()):
        if name.endswith("_proj") and "experts" in name:
            experts, inputs, outputs = weight.shape
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = mxfp4_codes(experts, outputs, inputs, seed)
        else:
            tensors[name] = weight
    folder = saved(tmp_path / "mxfp4", model, MXFP4, tensors)
    source = dequantised(SafetensorsFolder(folder), MXFP4, "mxfp4")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert set(source.names()) == set(loaded)
    for name, weight in loaded.items():
        assert source.dtype(name) == torch.bfloat16
        assert torch.equal(source.tensor(name), weight), name
        assert torch.equal(source.part(name, 1), weight[1]), name


def test_mxfp4_is_exact_and_low_halves_come_first():
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    blocks = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 1, 16) * 16 + 9  # low halves 9, high halves 0 to 15
    weight = weight_of(
        MXFP4, EXPERTS, **{f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": torch.full((1, 1, 1), 120).to(torch.uint8)}
    )
    assert weight.shape == (1, 32, 1)
    assert weight[0, ::2, 0].tolist() == [-0.5 / 128] * 16
    assert weight[0, 1::2, 0].tolist() == [value / 128 for value in values]


def test_of_mxfp4_only_the_wanted_expert_is_read():
    blocks, exponents = mxfp4_codes(3, 4, 32)
    stored = InMemory(**{f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": exponents})
    dequantised(stored, MXFP4, "a model").part(EXPERTS, 2)
    assert stored.asked == [f"{EXPERTS}_blocks[2]", f"{EXPERTS}_scales[2]"]


@pytest.mark.parametrize("config", [MXFP4, None])
def test_a_dequantised_gpt_oss_that_was_saved_as_if_it_were_not_is_refused(config):
    """transformers 5.23 saves floats under the name of the codes, and no scales, and forgets the config."""
    floats = torch.randn(3, 32, 8, dtype=torch.bfloat16)
    assert "faulty save" in refusal(config, EXPERTS, **{f"{EXPERTS}_blocks": floats})
    assert "faulty save" in refusal(config, EXPERTS, **{f"{EXPERTS}_blocks": mxfp4_codes(3, 4, 32)[0]})


def test_mxfp4_codes_and_scales_of_different_shapes_are_refused():
    blocks, exponents = mxfp4_codes(3, 4, 64)
    message = refusal(MXFP4, EXPERTS, **{f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": exponents[:, :, :1]})
    assert "(3, 4, 1)" in message or "(1, 4, 1)" in message


# --- bitsandbytes -----------------------------------------------------------------------------------


def state(**fields: Any) -> Tensor:
    return torch.tensor(list(json.dumps(fields).encode()), dtype=torch.uint8)


def four_bit(rows: int, columns: int, size: int, *, nested: int | None, seed: int = 0) -> dict[str, Tensor]:
    """Random codes and scales, as bitsandbytes stores them; with ``nested``, the scales are quantised too."""
    random = torch.Generator().manual_seed(seed)
    count = rows * columns
    n_scales = -(-count // size)
    fields: dict[str, Any] = {"quant_type": "nf4", "blocksize": size, "dtype": "bfloat16", "shape": [rows, columns]}
    tensors = {
        "": torch.randint(0, 256, (-(-count // 2), 1), generator=random, dtype=torch.uint8),
        ".quant_map": torch.randn(16, generator=random),
        ".absmax": torch.rand(n_scales, generator=random),
    }
    if nested is not None:
        fields |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": 2.5}
        tensors[".absmax"] = torch.randint(0, 256, (n_scales,), generator=random, dtype=torch.uint8)
        tensors[".nested_quant_map"] = torch.randn(256, generator=random)
        tensors[".nested_absmax"] = torch.rand(-(-n_scales // nested), generator=random)
    tensors[".quant_state.bitsandbytes__nf4"] = state(**fields)
    return {UP + end: tensor for end, tensor in tensors.items()}


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    size=st.sampled_from([32, 64, 128]),
    nested=st.sampled_from([None, 1, 2, 256]),
    stored_as=st.sampled_from([torch.uint8, torch.bfloat16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_half_byte_is_its_value_times_the_scale_of_its_block(rows, columns, size, nested, stored_as, seed):
    tensors = four_bit(rows, columns, size, nested=nested, seed=seed)
    codes = tensors[UP].flatten().tolist()
    halves = [half for byte in codes for half in (byte >> 4, byte & 15)]
    values, absmax = tensors[f"{UP}.quant_map"].double(), tensors[f"{UP}.absmax"]
    if nested is not None:
        found = tensors[f"{UP}.nested_quant_map"].double()[absmax.long()]
        absmax = found * tensors[f"{UP}.nested_absmax"].double().repeat_interleave(nested)[: len(absmax)] + 2.5
    expected = torch.stack([values[halves[n]] * absmax[n // size].double() for n in range(rows * columns)])
    if len(codes) % 2 == 0:  # two bytes of codes may be kept as one bfloat16
        tensors[UP] = tensors[UP].flatten().view(stored_as)[:, None]
    weight = weight_of(BNB, **tensors)
    assert weight.shape == (rows, columns)
    torch.testing.assert_close(weight.double(), expected.reshape(rows, columns), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("end", "tensor"),
    [
        ("", torch.zeros(7, 1, dtype=torch.uint8)),
        ("", torch.zeros(33, 1, dtype=torch.uint8)),
        (".absmax", torch.zeros(2)),
        (".quant_map", torch.zeros(15)),
        (".quant_map", torch.zeros(17)),
        (".quant_state.bitsandbytes__nf4", state(blocksize=64, shape=[8, 9])),
        (".quant_state.bitsandbytes__nf4", state(blocksize=0, shape=[8, 8])),
        (".quant_state.bitsandbytes__nf4", state(shape=[8, 8])),
        (".quant_state.bitsandbytes__nf4", state(blocksize="x", shape=[8, 8])),
        (".quant_state.bitsandbytes__nf4", state(blocksize=64, shape=None)),
        (".quant_state.bitsandbytes__nf4", torch.tensor([255, 0], dtype=torch.uint8)),
    ],
)
def test_damaged_4_bit_tensors_are_refused(end, tensor):
    tensors = four_bit(8, 8, 64, nested=None)
    assert "do not fit together" in refusal(BNB, **{**tensors, UP + end: tensor})


def test_4_bit_codes_kept_as_bfloat16_are_not_weights():
    tensors = four_bit(8, 8, 64, nested=None)
    tensors[UP] = tensors[UP].flatten().view(torch.bfloat16)
    for config in (BNB, None):  # the second as when config.json is another one's
        assert weight_of(config, **tensors).dtype == torch.float32


def test_8_bit_codes_are_multiplied_by_the_scale_of_their_row():
    codes = torch.randint(-127, 128, (5, 7), dtype=torch.int8)
    module = UP.removesuffix(".weight")
    tensors = {UP: codes, f"{module}.SCB": scales(5), f"{module}.weight_format": torch.tensor(0, dtype=torch.uint8)}
    for config in (BNB, {"load_in_8bit": True}):  # the second as its first releases wrote it
        weight = weight_of(config, **tensors)
        torch.testing.assert_close(weight.double(), codes.double() * scales(5)[:, None].double() / 127)
    assert "kernel" in refusal(BNB, **{**tensors, f"{module}.weight_format": torch.tensor(1, dtype=torch.uint8)})
    assert "(4,)" in refusal(BNB, **{**tensors, f"{module}.SCB": scales(4)})


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_4_bits_are_what_bitsandbytes_makes_of_them(bitsandbytes, kind, nested, dtype):
    functional = bitsandbytes.functional
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes, quantised = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
    tensors = {UP: codes, **{f"{UP}.{end}": tensor for end, tensor in quantised.as_dict(packed=True).items()}}
    assert torch.equal(weight_of(BNB, **tensors).to(dtype), functional.dequantize_4bit(codes, quantised))


@pytest.mark.parametrize(("kind", "widest_gap"), [("nf4", 0.31), ("fp4", 0.34)])
def test_4_bits_are_near_the_weights_where_a_row_is_no_multiple_of_the_block(bitsandbytes, kind, widest_gap):
    """Not compared with ``dequantize_4bit``, which is wrong here on CPUs with AVX-512."""
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(0))
    codes, quantised = bitsandbytes.functional.quantize_4bit(weight, quant_type=kind)
    tensors = {UP: codes, **{f"{UP}.{end}": tensor for end, tensor in quantised.as_dict(packed=True).items()}}
    error = (weight_of(BNB, **tensors) - weight).abs().flatten()
    assert (error <= widest_gap / 2 * quantised.absmax.repeat_interleave(64)).all()


@pytest.mark.parametrize(
    "how",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
    ],
)
def test_a_model_quantised_by_bitsandbytes_reads_the_same_live_and_saved(bitsandbytes, tmp_path, llama, how):
    llama.save_pretrained(tmp_path / "plain")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=BitsAndBytesConfig(**how), device_map="cpu"
    )
    model.eval().save_pretrained(tmp_path / "quantised")
    config = json.loads((tmp_path / "quantised" / "config.json").read_text())
    source = dequantised(SafetensorsFolder(tmp_path / "quantised"), config["quantization_config"], "quantised")
    before = load_file(tmp_path / "plain" / "model.safetensors")
    assert set(source.names()) == set(before)
    for name, weight in before.items():
        read = source.tensor(name)
        assert read.shape == weight.shape
        assert (read - weight).abs().max() <= 0.2 * weight.abs().max()
        assert torch.equal(live_weight(model, name), read)

    layer, hidden = model.model.layers[0].mlp.up_proj, torch.randn(3, 64).bfloat16()
    with torch.no_grad():
        model(torch.arange(8)[None])  # on some CPUs, this changes how the codes are kept
        out = layer(hidden).float()
    weight = live_weight(model, UP)
    # There, the scales are rounded to bfloat16.
    torch.testing.assert_close(weight, source.tensor(UP), rtol=2**-8, atol=0)
    torch.testing.assert_close(out, hidden.float() @ weight.T, rtol=0, atol=0.02 * float(out.abs().max()))


# --- methods that are refused -----------------------------------------------------------------------

KNOWN = {"fp8", "mxfp8", "mxfp4", "compressed-tensors", "bitsandbytes_4bit", "bitsandbytes_8bit"}


@pytest.mark.parametrize("method", [*sorted(set(AUTO_QUANTIZER_MAPPING) - KNOWN), "modelopt", None])
def test_other_methods_are_refused_before_anything_is_read(method):
    stored = InMemory(**{UP: torch.zeros(2, 2, dtype=torch.bfloat16)})
    with pytest.raises(CheckpointError, match=f"quantised by {method}, .*unquantised repository") as caught:
        dequantised(stored, {"quant_method": method, "bits": 4}, "a model")
    assert_one_line_with_next_step(caught.value)
    assert stored.asked == []


@pytest.mark.parametrize(
    "change",
    [
        {"format": "pack-quantized"},
        {"format": "nvfp4-pack-quantized"},
        {"format": "mixed-precision"},
        {"format": None},
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
    ],
)
def test_other_formats_of_compressed_tensors_are_refused(change):
    with pytest.raises(CheckpointError, match="compressed-tensors") as caught:
        dequantised(InMemory(), {**CHANNELS, **change}, "a model")
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        "fp8",
        ["fp8"],
        {**FP8, "weight_block_size": [128]},
        {**FP8, "weight_block_size": [0, 128]},
        {**FP8, "weight_block_size": "128"},
        {**FP8, "weight_block_size": [128, 1.5]},
        {**CHANNELS, "config_groups": ["a"]},
        {**CHANNELS, "sparsity_config": "dense"},
    ],
)
def test_a_damaged_config_is_refused(config):
    with pytest.raises(CheckpointError) as caught:
        dequantised(InMemory(), config, "a model")
    assert_one_line_with_next_step(caught.value)
