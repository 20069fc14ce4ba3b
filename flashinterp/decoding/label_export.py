r"""Every neuron's labels as one flat file, to be joined with other catalogues of the same model's neurons.

One row for each pole and neuron, with layer, expert and neuron counted from 0. The format is the file's suffix:

- ``.csv``: lists, and everything that a tokenizer wrote, are JSON inside their cell. That keeps the leading space of
  `` dog``, which many readers of CSV would strip, and it begins every such cell with ``"`` or ``[``: no spreadsheet
  takes it for a formula, as it would a token ``=cmd(...)`` or ``@sum``. What stands outside quotes is ours: numbers,
  neurons' names, and the poles + and -.
- ``.jsonl``: one object a line.
- ``.parquet``: typed columns, through pyarrow.

In CSV and JSONL control, bidi and other hidden characters are ``\u`` escapes, which every JSON reader turns back.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from flashinterp._util.files import replacing
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import MapError
from flashinterp.neurons import POLES, Block, Pole

Format = Literal["csv", "jsonl", "parquet"]
Progress = Callable[[int, int], None]
COLUMNS = (
    "name",
    "layer",
    "expert",
    "neuron",
    "pole",
    "token_id",
    "word",
    "score",
    "probability",
    "token_ids",
    "words",
    "logits",
    "scores",
    "probabilities",
)
"""The columns, in order. ``token_id`` to ``probability`` are those of the best word, the lists of the n best."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FEW_AT_A_TIME = 16_384  # neurons; bounds the memory
_DIGITS = 6  # of a number in CSV and JSONL; a float32 has seven


@dataclass(frozen=True)
class LabelColumns:
    """Some neurons' n best words on one pole.

    Attributes:
        block: the MLP that they are in.
        first: the number of the first of them in it; the others follow.
        pole: which.
        counts: [m] how many words each has, at most n: special, unused and padded ids are left out.
        ids: [m, n] int32 token ids, best first, anything beyond the count.
        logits, scores, probabilities: [m, n] float32, likewise; logits as of +w.
    """

    block: Block
    first: int
    pole: Pole
    counts: Any
    ids: Any
    logits: Any
    scores: Any
    probabilities: Any


def labels(neurons: NeuronMap, n: int = 10, poles: Sequence[Pole] = POLES) -> Iterator[LabelColumns]:
    """The n best words of every neuron on one pole after the other, in the map's order, many neurons at a time.

    Equal to `NeuronMap.words`, sooner.
    """
    for pole, block in product(poles, neurons.roster.blocks):
        whole = neurons.roster.span(block)
        for start in range(whole.start, whole.stop, _FEW_AT_A_TIME):
            part = slice(start, min(start + _FEW_AT_A_TIME, whole.stop))
            yield _labels(neurons, block, part, start - whole.start, pole, n)


def _labels(neurons: NeuronMap, block: Block, part: slice, first: int, pole: Pole, n: int) -> LabelColumns:
    ids, logits, logsumexp, log_mean_top = (array[part] for array in neurons.pole_arrays(pole))
    excluded = neurons.vocabulary.excluded[ids]
    # A stable sort of "is excluded" puts the words in front, best first.
    places = np.argsort(excluded, axis=1, kind="stable")[:, :n]
    z = np.take_along_axis(logits, places, axis=1).astype(np.float64)
    return LabelColumns(
        block=block,
        first=first,
        pole=pole,
        counts=np.minimum((~excluded).sum(axis=1), n),
        ids=np.take_along_axis(ids, places, axis=1),
        logits=(z if pole == "+" else -z).astype(np.float32),
        scores=np.exp(z - log_mean_top[:, None]).astype(np.float32),
        probabilities=np.exp(z - logsumexp[:, None]).astype(np.float32),
    )


def check_format(path: str | Path) -> Format:
    """The format that a file's suffix names, and that can be written here.

    Raises:
        MapError: another suffix, or Parquet without pyarrow.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    kinds: tuple[Format, ...] = get_args(Format)
    for kind in kinds:
        if suffix == kind:
            if kind == "parquet":
                _pyarrow()
            return kind
    raise MapError(f"{path} names no format that labels are written in: name it .csv, .jsonl or .parquet")


def write_labels(
    neurons: NeuronMap,
    path: str | Path,
    *,
    n: int = 10,
    poles: Sequence[Pole] = POLES,
    progress: Progress | None = None,
) -> int:
    """Write every neuron's labels as one file, whole or not at all; returns the number of rows.

    Args:
        neurons: the map.
        path: where; ``.csv``, ``.jsonl`` or ``.parquet``.
        n: words per neuron and pole, at most as many as the map keeps.
        poles: which.
        progress: called with (neurons done, neurons in all).

    Raises:
        MapError: another format, or the place cannot be written.
    """
    target, kind = Path(path), check_format(path)
    parts = _counted(labels(neurons, n, poles), len(neurons) * len(poles), progress)
    try:
        with replacing(target) as scratch:
            _WRITERS[kind](scratch, parts, neurons)
    except OSError as error:
        raise MapError(f"{target} cannot be written ({error}): choose a place with room") from error
    return len(neurons) * len(poles)


def _counted(parts: Iterator[LabelColumns], total: int, progress: Progress | None) -> Iterator[LabelColumns]:
    done = 0
    for part in parts:
        yield part
        done += len(part.counts)
        if progress:
            progress(done, total)


def _rows(part: LabelColumns) -> Iterator[list[Any]]:
    """The rows of a part: plain values, token ids in the place of words."""
    arrays = (part.ids, part.logits, part.scores, part.probabilities)
    lists = zip(part.counts.tolist(), *(array.tolist() for array in arrays), strict=True)
    expert = part.block.expert
    stem = f"L{part.block.layer}" + ("" if expert is None else f"E{expert}")
    for number, (count, ids, *rest) in enumerate(lists, part.first):
        ids, logits, scores, probabilities = ids[:count], *(values[:count] for values in rest)
        best = (ids[0], ids[0], scores[0], probabilities[0]) if count else (None,) * 4
        where = (f"{stem}N{number}", part.block.layer, expert, number, part.pole)
        yield [*where, *best, ids, ids, logits, scores, probabilities]


_WORD, _WORDS = COLUMNS.index("word"), COLUMNS.index("words")


def _words_as_json(neurons: NeuronMap) -> Callable[[int], str]:
    """A token's surface as JSON text; each is made once, since the same words come again and again."""
    return cache(lambda token_id: json_text(neurons.vocabulary.surfaces[token_id]))


def json_text(text: str) -> str:
    r"""A text as a JSON string that reads as it looks: hidden characters are ``\u`` escapes, letters are letters."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in _HIDDEN else c for c in plain)


def _number(value: float) -> str:
    return f"{value:.{_DIGITS}g}"


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(map(_number, values))}]"


def _write_csv(file: Path, parts: Iterator[LabelColumns], neurons: NeuronMap) -> None:
    word = _words_as_json(neurons)
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for part in parts:
            writer.writerows(_as_cells(row, word) for row in _rows(part))


def _as_cells(row: list[Any], word: Callable[[int], str]) -> list[Any]:
    *where, best, _, score, probability, ids, _, logits, scores, probabilities = row
    top = ["", "", "", ""] if best is None else [best, word(best), _number(score), _number(probability)]
    lists = [str(ids), f"[{', '.join(map(word, ids))}]", *map(_numbers, (logits, scores, probabilities))]
    return ["" if cell is None else cell for cell in where] + top + lists


def _write_jsonl(file: Path, parts: Iterator[LabelColumns], neurons: NeuronMap) -> None:
    word = _words_as_json(neurons)
    with open(file, "w", encoding="utf-8", newline="\n") as out:
        for part in parts:
            out.writelines(_as_line(row, word) for row in _rows(part))


def _as_line(row: list[Any], word: Callable[[int], str]) -> str:
    name, layer, expert, number, pole, best, _, score, probability, ids, _, logits, scores, probabilities = row
    values = [
        f'"{name}"',
        layer,
        expert,
        number,
        f'"{pole}"',
        best,
        None if best is None else word(best),
        None if best is None else _number(score),
        None if best is None else _number(probability),
        ids,
        f"[{', '.join(map(word, ids))}]",
        *map(_numbers, (logits, scores, probabilities)),
    ]
    cells = ("null" if value is None else value for value in values)
    return "{" + ", ".join(f'"{key}": {cell}' for key, cell in zip(COLUMNS, cells, strict=True)) + "}\n"


def _pyarrow() -> Any:
    """pyarrow, which is an extra.

    Raises:
        MapError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MapError(
            "Parquet needs pyarrow, which is not installed: add it with `pip install 'flashinterp[parquet]'`, or "
            "choose .csv or .jsonl"
        ) from error
    return pyarrow


def _write_parquet(file: Path, parts: Iterator[LabelColumns], neurons: NeuronMap) -> None:
    pa = _pyarrow()
    schema = _schema(pa)
    surfaces = neurons.vocabulary.surfaces
    with pa.parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            rows = []
            for row in _rows(part):
                row[_WORD] = None if row[_WORD] is None else _utf8(surfaces[row[_WORD]])
                row[_WORDS] = [_utf8(surfaces[i]) for i in row[_WORDS]]
                rows.append(row)
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema))


def _utf8(text: str) -> str:
    """The text, a lone surrogate, which UTF-8 cannot hold, as an escape."""
    return _SURROGATE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _schema(pa: Any) -> Any:
    whole, text, number = pa.int32(), pa.string(), pa.float32()
    types = {"name": text, "pole": text, "word": text, "score": number, "probability": number}
    types |= {"token_ids": pa.list_(whole), "words": pa.list_(text)}
    types |= dict.fromkeys(("logits", "scores", "probabilities"), pa.list_(number))
    return pa.schema([(column, types.get(column, whole)) for column in COLUMNS])


_WRITERS: dict[Format, Callable[[Path, Iterator[LabelColumns], NeuronMap], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
