"""What became of the labels of a fine-tune whose truth is known, and which head is used where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flashinterp.decoding.decode import decode
from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.finetuning.compare import compare
from flashinterp.studies.finetuning.label_changes import codes, share_kept
from flashinterp.studies.finetuning.measure_labels import LabelChanges, fine_tune_labels, label_changes


@pytest.fixture(scope="module")
def found(planted: Checkpoint, tuned: Checkpoint) -> LabelChanges:
    return label_changes(planted, tuned, DecodedMaps(planted, "cpu"), DecodedMaps(tuned, "cpu"), "cpu")


def test_the_share_is_the_planted_one(found: LabelChanges, truth: dict[str, Any]) -> None:
    share = share_kept(found.labels.change)
    assert share is not None
    assert share.estimate == truth["tuned"]["kept_share"]
    assert ((found.top_base == found.top_tuned) == (found.labels.change <= 0)).all()


def test_each_models_rows_meet_the_others_head(found: LabelChanges, planted: Checkpoint, tuned: Checkpoint) -> None:
    base = decode(planted, device="cpu")
    for rows, head, there in ((tuned, planted, found.base_head), (planted, tuned, found.tuned_head)):
        assert np.array_equal(there, codes(compare(base, decode(rows, device="cpu", head_of=head))))
    rows_a, rows_b = (
        np.concatenate([c.rows("up", layer).double().numpy() for layer in range(c.layout.n_layers)])
        for c in (planted, tuned)
    )
    wanted = (rows_a * rows_b).sum(1) / np.linalg.norm(rows_a, axis=1) / np.linalg.norm(rows_b, axis=1)
    assert found.cosines == pytest.approx(wanted, abs=1e-5)
    assert np.array_equal(found.norms, base.norms)


def test_one_of_several_fine_tunes(found: LabelChanges, planted: Checkpoint, tuned: Checkpoint) -> None:
    one = fine_tune_labels("light", decode(planted, device="cpu"), decode(tuned, device="cpu"))
    assert one.name == "light"
    assert np.array_equal(one.change, found.labels.change)
