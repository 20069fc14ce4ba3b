"""A checkpoint copied with some of its tensors changed: tensor by tensor, no model built, and whole or not at all.

The copy is what plain transformers loads: the same shards under the same names, config.json, the tokenizer's files and
the chat template, and ``flashinterp.json``, which says what was changed and in which weights.
"""

from __future__ import annotations

import copy
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from flashinterp.errors import CheckpointError, first_line
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.layout import Layout
from flashinterp.models.layout_reader import layout_of, skeleton
from flashinterp.models.weights.safetensors_folder import SafetensorsFolder
from flashinterp.models.weights.shard_writer import (
    INDEX,
    Changes,
    apply_edit,
    plan_shards,
    read_json,
    write_index,
    write_json,
    write_shard,
)
from flashinterp.models.weights.tensor_names import DiskNames

NOTE = "flashinterp.json"
# What lies beside the weights and makes a folder a model. Code is never copied, nor are weights in other formats.
_BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "additional_chat_templates/*")
_OWN = ("config.json", NOTE)  # written anew


def copy_checkpoint(checkpoint: Checkpoint, folder: str | Path, changes: Changes) -> Path:
    """Write a copy with changes into a new folder; returns the folder.

    One tensor is in memory at a time. All is written into a temporary folder beside the wanted one, opened again and
    compared with what was meant, and only then renamed; whatever goes wrong, nothing is left.

    Raises:
        CheckpointError: the source is a live model, quantised, or stores an edited tensor otherwise than whole; the
            folder is there already or cannot be written; or the copy is not what was meant.
    """
    target = Path(folder)
    stored, names = _stored(checkpoint)
    wanted = with_config(checkpoint, changes.config)
    shards = plan_shards(stored, names, _new_biases(checkpoint, wanted, names), changes)
    with _whole(target) as work:
        _check_room(target, sum(part.size for parts in shards.values() for part in parts))
        for shard, parts in shards.items():
            write_shard(work / shard, parts)
        if (stored.folder / INDEX).is_file():
            write_index(work / INDEX, shards)
        _write_beside(stored.folder, work)
        write_json(work / "config.json", {**read_json(stored.folder / "config.json"), **changes.config})
        write_json(work / NOTE, _note(checkpoint, changes.note))
        _prove(work, names, changes)
    return target


def with_config(checkpoint: Checkpoint, fields: Mapping[str, Any]) -> Layout:
    """The layout of a checkpoint's model if its config had these values.

    Raises:
        CheckpointError: its config has no such field.
    """
    if not fields:
        return checkpoint.layout
    config = copy.deepcopy(checkpoint.config)
    for name, value in fields.items():
        if not hasattr(config, name):
            raise CheckpointError(
                f"the config of {checkpoint.name} has no field {name}: check the name, a {config.model_type} config "
                "would ignore it"
            )
        setattr(config, name, value)
    return layout_of(skeleton(config))


def _stored(checkpoint: Checkpoint) -> tuple[SafetensorsFolder, DiskNames]:
    if checkpoint.folder is None:
        raise CheckpointError(
            f"{checkpoint.name} is a live model, which has no files to copy: write it with save_pretrained, and open "
            "that folder"
        )
    if getattr(checkpoint.config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"{checkpoint.name} is quantised, and codes cannot be changed row by row: use the unquantised "
            "repository that it was made from"
        )
    stored = SafetensorsFolder(checkpoint.folder)
    return stored, DiskNames(skeleton(checkpoint.config), stored)


def _new_biases(checkpoint: Checkpoint, wanted: Layout, names: DiskNames) -> dict[str, tuple[str, tuple[int, ...]]]:
    """For each bias that only the wanted model has: the stored weight that it belongs to, and its shape."""
    new = {}
    for name in sorted(wanted.shapes.keys() - checkpoint.layout.shapes.keys()):
        weight = f"{name.removesuffix('bias')}weight"
        if not name.endswith(".bias") or weight not in checkpoint.layout.shapes:
            raise CheckpointError(
                f"the changed config asks for {name}, which is no bias of a stored weight: check which fields are set"
            )
        new[name] = names.on_disk(weight), wanted.shapes[name]
    return new


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes it if all goes well, and is gone if not."""
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target} is there already and is left as it is: name a folder that is not")
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        work.mkdir(parents=True)
        yield work
        os.rename(work, target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target} cannot be written ({first_line(error)}): choose a place with room that you may write to"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise CheckpointError(
            f"{target} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there: choose a place with room"
        )


def _write_beside(source: Path, work: Path) -> None:
    for path in sorted({path for pattern in _BESIDE for path in source.glob(pattern)}):
        if path.is_file() and path.name not in _OWN and not path.name.endswith(".index.json"):
            copied = work / path.relative_to(source)
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copied)


def _note(checkpoint: Checkpoint, note: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed, and in which bytes; with the note of the source, if it was such a copy itself."""
    assert checkpoint.folder is not None
    former = checkpoint.folder / NOTE
    return {
        "made_by": f"flashinterp {version('flashinterp')}",
        **note,
        "source": {
            "name": checkpoint.name if checkpoint.revision else Path(checkpoint.name).name,
            "revision": checkpoint.revision,
            "digests": checkpoint.digests,
            "note": read_json(former) if former.is_file() else None,
        },
    }


def _prove(work: Path, names: DiskNames, changes: Changes) -> None:
    """Open the copy as any checkpoint, and find in it every tensor of its model, and the changed ones as meant."""
    made = open_checkpoint(work)
    assert made.folder is not None
    now = DiskNames(skeleton(made.config), SafetensorsFolder(made.folder))
    missing = sorted(made.layout.shapes.keys() - now.names())
    if missing:
        raise CheckpointError(
            f"the copy lacks {len(missing)} tensors of its model, the first of them {missing[0]}, because the source "
            "does: fetch the whole checkpoint"
        )
    before = names.names()
    for name, edit in changes.edits.items():
        found = now.tensor(name)
        old = names.tensor(name) if name in before else torch.zeros_like(found)
        if not torch.equal(found, apply_edit(edit, old, name)):
            raise CheckpointError(f"{name} is not in the copy as it was meant: check the disk, and try again")
