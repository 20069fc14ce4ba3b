"""Quantised checkpoints, read as the weights that their codes stand for; what cannot be read so is refused.

A code is never handed out as a weight. What a tensor is, is decided by how it is stored and by what lies beside it:

- fp8 with scales (``quant_method`` fp8, mxfp8, and compressed-tensors' float-quantized): code × scale, in float32;
- mxfp4 (gpt-oss): in bfloat16, which holds every value of it;
- bitsandbytes, 4 bits (nf4, fp4, double quantised or not) and 8 bits: code × scale, in float32.

The arithmetic of bitsandbytes is done here, and it need not be installed: its own ``dequantize_4bit`` (0.50) is wrong
on CPUs with AVX-512 if a row is no multiple of the block size. The block size of fp8 comes from the config: from the
shapes alone, two scales for 192 rows could be for 96 + 96 or for 128 + 64.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from flashinterp.errors import CheckpointError, first_line
from flashinterp.models.weights.safetensors_folder import Source

_Block = tuple[int, int]  # rows and columns that share a scale
_METHODS = ("fp8", "mxfp8", "mxfp4", "bitsandbytes", "compressed-tensors")
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALES = ("_scale_inv", "_scale")  # both multiply, whatever the first is called
_STATE = "quant_state.bitsandbytes__"
_CURE = "use the unquantised repository that it was made from"
# Names of what lies beside codes, and the codes' own.
_BESIDE = (
    (re.compile(r"(.+(?:\.weight|_proj))_(?:scale|scale_inv|zero_point)"), r"\1"),
    (re.compile(r"(.+_proj)_scales"), r"\1_blocks"),
    (re.compile(r"(.+)\.(?:SCB|weight_format|input_scale|activation_scale)"), r"\1.weight"),
    (re.compile(r"(.+\.weight)\..+"), r"\1"),  # bitsandbytes with 4 bits: up_proj.weight.absmax
)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are weights: fp8 is floating point to torch, and bfloat16 may hold 4-bit codes."""
    numbers = tensor.is_floating_point() and tensor.element_size() >= 2 and not tensor.is_meta
    return numbers and getattr(tensor, "quant_state", None) is None


def dequantised(source: Source, config: Mapping[str, Any] | None, name: str) -> Source:
    """Show a source's tensors as if they had never been quantised; the source itself where nothing is.

    The config is ``quantization_config`` of config.json; the name is the model's, for messages.

    Raises:
        CheckpointError: the method is one that cannot be read.
    """
    if config:
        try:
            return Dequantised(source, _check_method(config, name), name)
        except (AttributeError, TypeError) as error:
            raise CheckpointError(f"{name}: its quantization_config is damaged: fetch config.json again") from error
    names = list(source.names())
    if packed := next((n for n in names if n.endswith((".qweight", ".weight_packed"))), None):  # gptq, awq and others
        raise CheckpointError(f"{name} holds codes ({packed}), and its config names no method: {_CURE}")
    one_of_each = {re.sub(r"\d+", "#", n): n for n in names}.values()  # of layers and experts there may be thousands
    narrow = any(dtype.is_floating_point and dtype.itemsize < 2 for dtype in map(source.dtype, one_of_each))
    return Dequantised(source, None, name) if narrow or _companions(names) else source


class Dequantised:
    """A `Source` of weights from one of codes; made by `dequantised`. A tensor that is not understood is refused."""

    def __init__(self, source: Source, block: _Block | None, name: str) -> None:
        self._source, self._block, self._name = source, block, name
        self._stored = dict.fromkeys(source.names())
        self._beside = _companions(self._stored)

    def names(self) -> Iterable[str]:
        hidden = {companion for companions in self._beside.values() for companion in companions}
        return [re.sub(r"_proj_blocks$", "_proj", name) for name in self._stored if name not in hidden]

    def tensor(self, name: str) -> Tensor:
        """A weight: in float32 or bfloat16 if it was quantised, else as it is stored."""
        return self._read(name, slice(None))

    def part(self, name: str, i: int) -> Tensor:
        """``tensor(name)[i]``; of fused experts, only the codes of the wanted one are read."""
        return self._read(name, slice(i, i + 1))[0]

    def dtype(self, name: str) -> torch.dtype:
        kind = self._kind(name)
        return self._source.dtype(name) if kind == "plain" else torch.bfloat16 if kind == "mxfp4" else torch.float32

    def digests(self) -> dict[str, str]:
        return self._source.digests()

    def _kind(self, name: str) -> str:
        if f"{name}_blocks" in self._stored:
            return "mxfp4"
        beside = self._beside.get(name, [])
        if any(companion.startswith(f"{name}.{_STATE}") for companion in beside):
            return "4 bits"
        dtype = self._source.dtype(name)
        if dtype.is_floating_point and dtype.itemsize >= 2:
            return "plain"
        if dtype is torch.int8 and name.removesuffix(".weight") + ".SCB" in beside:
            return "int8"
        scales = [name + end for end in _SCALES if name + end in beside]
        if dtype not in _FP8 or len(scales) != 1 or f"{name}_zero_point" in beside:
            self._refuse(name, f"is stored as {dtype} beside {beside or 'no scales'}, which cannot be read as weights")
        return "fp8"

    def _read(self, name: str, at: slice) -> Tensor:
        readers = {"mxfp4": self._mxfp4, "4 bits": self._four_bit, "int8": self._int8, "fp8": self._fp8}
        return readers.get(self._kind(name), self._as_stored)(name, at)

    def _as_stored(self, name: str, at: slice) -> Tensor:
        return self._source.tensor(name) if at.start is None else self._source.part(name, at.start)[None]

    def _fp8(self, name: str, at: slice) -> Tensor:
        codes = self._source.tensor(name)  # mapped into memory: what is not looked at is not read
        scales = self._source.tensor(next(name + end for end in _SCALES if name + end in self._beside[name]))
        if (found := _grid(codes, scales, self._block)) is None:
            shapes = f"{tuple(codes.shape)} and scales of {tuple(scales.shape)}"
            self._refuse(name, f"has shape {shapes}, which blocks of {self._block} do not give")
        grid, block = found
        return _scaled(codes[at], grid[at], block) if codes.ndim > 2 else _scaled(codes, grid, block)[at]

    def _mxfp4(self, name: str, at: slice) -> Tensor:
        """[E, in, out], as the module has it; on disk a row is an output."""
        stored = [n for n in (f"{name}_blocks", f"{name}_scales") if n in self._stored]
        # Of a dequantised gpt-oss, transformers 5.23 saves floats under the first name, and no scales.
        if (dtypes := [self._source.dtype(n) for n in stored]) != [torch.uint8, torch.uint8]:
            self._refuse(name, f"has its _blocks and _scales as {dtypes}, not as bytes, as a faulty save leaves them")
        codes, scales = (self._as_stored(n, at) for n in stored)
        if codes.ndim != 4 or codes.shape[:-1] != scales.shape or codes.shape[-1] != 16:
            self._refuse(name, f"has codes of {tuple(codes.shape)} and scales of {tuple(scales.shape)}")
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        return convert_moe_packed_tensors(codes, scales, dtype=torch.bfloat16)

    def _four_bit(self, name: str, at: slice) -> Tensor:
        beside = {n.removeprefix(f"{name}."): self._source.tensor(n) for n in self._beside[name]}
        try:
            state = next(json.loads(bytes(tensor.tolist())) for own, tensor in beside.items() if own.startswith(_STATE))
            absmax, shape = beside["absmax"], torch.Size(state["shape"])
            if "nested_absmax" in beside:
                values, size = beside["nested_quant_map"], int(state["nested_blocksize"])
                absmax = _blockwise(absmax, values, beside["nested_absmax"], size) + float(state["nested_offset"])
            values, size = beside["quant_map"], int(state["blocksize"])
            return _nibbles(self._source.tensor(name), values, absmax, size, shape)[at]
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            why = f"the codes and scales of {name} do not fit together ({first_line(error)})"
            raise CheckpointError(f"{self._name}: {why}: fetch the model again") from error

    def _int8(self, name: str, at: slice) -> Tensor:
        codes, module = self._source.tensor(name), name.removesuffix(".weight")
        scales, order = self._source.tensor(f"{module}.SCB"), f"{module}.weight_format"
        if order in self._beside[name] and self._source.tensor(order).any():
            self._refuse(name, "is stored in the order of a GPU's kernel")
        if codes.ndim != 2 or scales.shape != codes.shape[:1]:
            self._refuse(name, f"has shape {tuple(codes.shape)} and scales of {tuple(scales.shape)}")
        return _int8(codes[at], scales[at])

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise CheckpointError(f"{self._name}: {name} {why}: {_CURE}")


def live_weight(module: Any, name: str) -> Tensor:
    """The weight of this path in a live module, as before quantisation: so [in, out] for what was a ``Conv1D``.

    A weight that is not quantised is the module's own tensor.

    Raises:
        CheckpointError: the weight is quantised in a way that is not known here, or not in memory.
    """
    path, _, own = name.rpartition(".")
    owner: Any = module.get_submodule(path)
    tensor: Any = getattr(owner, own, None)
    if not isinstance(tensor, Tensor) or tensor.is_meta or (weight := _live(owner, own, tensor)) is None:
        kind = f"a {type(tensor).__name__} of {getattr(tensor, 'dtype', None)} in a {type(owner).__name__}"
        raise CheckpointError(
            f"{name} of the live model is {kind}, which cannot be read as weights: open the model's folder instead, or "
            "the unquantised repository"
        )
    return weight.T if getattr(getattr(owner, "source_cls", None), "__name__", "") == "Conv1D" else weight


def _live(owner: Any, own: str, tensor: Any) -> Tensor | None:
    """The weights in a parameter, None if it is of an unknown kind."""
    if own == "weight" and (state := getattr(tensor, "quant_state", None) or getattr(owner, "quant_state", None)):
        return _live_four_bit(tensor.detach().as_subclass(Tensor), state)
    if tensor.dtype is torch.int8:
        places = (tensor, getattr(owner, "state", None))  # bitsandbytes moves it at the first forward
        scales = next((s for place in places if (s := getattr(place, "SCB", None)) is not None), None)
        return None if scales is None else _int8(tensor.detach().as_subclass(Tensor), scales)
    if tensor.dtype in _FP8:
        scales = next((s for end in _SCALES if (s := getattr(owner, own + end, None)) is not None), None)
        found = None if scales is None else _grid(tensor, scales.detach(), getattr(owner, "block_size", None))
        return None if found is None else _scaled(tensor.detach(), *found)
    # torchao and quanto keep codes in a subclass of Tensor that says bfloat16; a DTensor is a shard of plain weights.
    foreign = is_traceable_wrapper_subclass(tensor) and not hasattr(tensor, "full_tensor")
    return tensor if is_plain(tensor) and not foreign else None


def _live_four_bit(codes: Tensor, state: Any) -> Tensor:
    absmax = state.absmax
    if getattr(state, "packing_format_for_cpu", False):
        # On CPUs with AVX512-BF16 the first forward shuffles the codes. The model goes on with its own: undo on a copy.
        from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

        codes, absmax = _convert_weight_packed_for_cpu_inverse(codes, copy.copy(state))[0], absmax.T
    elif state.nested:
        absmax = _blockwise(absmax, state.state2.code, state.state2.absmax, state.state2.blocksize) + state.offset
    return _nibbles(codes, state.code, absmax, state.blocksize, state.shape)


def _check_method(config: Mapping[str, Any], name: str) -> _Block | None:
    """The block size of fp8 scales, None where each is for a row or for all; refuse a method that cannot be read."""
    oldest = config.get("load_in_4bit") or config.get("load_in_8bit")  # bitsandbytes, before methods had a name
    method = config.get("quant_method") or ("bitsandbytes" if oldest else None)
    block = config.get("weight_block_size", {"fp8": (128, 128), "mxfp8": (1, 32)}.get(str(method)))
    if method == "compressed-tensors":
        sparse = (config.get("sparsity_config") or {}).get("format", "dense") != "dense"
        if config.get("format") != "float-quantized" or sparse or config.get("transform_config"):
            method = f"compressed-tensors ({config.get('format')}; only plain float-quantized is known)"
        groups = (config.get("config_groups") or {}).values()
        block = next((b for g in groups if (b := (g.get("weights") or {}).get("block_structure"))), None)
    if method not in _METHODS:
        raise CheckpointError(f"{name} is quantised by {method}, whose codes cannot be read as weights here: {_CURE}")
    sizes = block or (1, 1)
    if not (isinstance(sizes, list | tuple) and len(sizes) == 2 and all(type(n) is int and n > 0 for n in sizes)):
        raise CheckpointError(f"{name}: its weight_block_size is {block!r}, not two sizes: fetch config.json again")
    return (sizes[0], sizes[1]) if block else None


def _companions(names: Iterable[str]) -> dict[str, list[str]]:
    """What lies beside each quantised tensor, by the name of its codes on disk."""
    have = set(names)
    found: dict[str, list[str]] = {name: [] for name in have if name.endswith("_proj_blocks")}
    for name in sorted(have):
        for pattern, codes in _BESIDE:
            if (match := pattern.fullmatch(name)) and (of := match.expand(codes)) in have:
                found.setdefault(of, []).append(name)
    return found


def _grid(codes: Tensor, scales: Tensor, block: _Block | None) -> tuple[Tensor, _Block] | None:
    """Scales with as many dimensions as the codes, and the block of codes that shares one; None if they do not fit."""
    if codes.ndim < 2:
        return None
    *leading, rows, columns = codes.shape
    if scales.numel() == 1:
        return scales.reshape([1] * codes.ndim).expand(*leading, 1, 1), (rows, columns)
    grid = scales[:, None] if scales.ndim == 1 and codes.ndim == 2 else scales
    for high, wide in filter(None, (block, (rows, columns), (1, columns))):
        if tuple(grid.shape) == (*leading, math.ceil(rows / high), math.ceil(columns / wide)):
            return grid, (high, wide)
    return None


def _scaled(codes: Tensor, grid: Tensor, block: _Block) -> Tensor:
    """Codes [..., R, C] times the scale of their block; the last blocks of a row or column may be smaller."""
    weights = codes.float()
    # MX scales are powers of two: exponents as bytes, or in torch's own type for them.
    scales = (grid.float() - 127).exp2() if grid.dtype is torch.uint8 else grid.float()
    scales = scales.repeat_interleave(block[0], -2)[..., : codes.shape[-2], :]
    full = codes.shape[-1] // block[1]
    weights[..., : full * block[1]].unflatten(-1, (full, block[1])).mul_(scales[..., :full, None])
    weights[..., full * block[1] :].mul_(scales[..., full:])
    return weights


def _blockwise(codes: Tensor, values: Tensor, absmax: Tensor, size: int) -> Tensor:
    """bitsandbytes' 8-bit layout of scales: the values that bytes stand for, times the scale of their block."""
    return values.index_select(0, codes.reshape(-1).int()) * absmax.repeat_interleave(size)[: codes.numel()]


def _nibbles(codes: Tensor, values: Tensor, absmax: Tensor, size: int, shape: torch.Size) -> Tensor:
    """bitsandbytes' 4-bit layout: the high half of a byte first, and a scale for each ``size`` weights in a row."""
    packed, count, scales = codes.reshape(-1).view(torch.uint8), shape.numel(), absmax.reshape(-1).float()
    if packed.numel() != math.ceil(count / 2) or scales.numel() != math.ceil(count / size) or values.numel() != 16:
        raise ValueError(f"{packed.numel()} bytes and {scales.numel()} scales for {count} weights")
    pairs = torch.stack([values.float().repeat_interleave(16), values.float().repeat(16)], dim=1)  # of each byte
    weights = pairs.index_select(0, packed.int()).reshape(-1)[:count]
    whole = count // size * size
    weights[:whole].unflatten(0, (whole // size, size)).mul_(scales[: whole // size, None])
    weights[whole:].mul_(scales[whole // size :])
    return weights.reshape(shape)


def _int8(codes: Tensor, scales: Tensor) -> Tensor:
    """bitsandbytes' 8-bit codes [R, C], and the largest magnitude of each row."""
    return codes.float() * (scales.float() / 127)[:, None]
