"""The maps of one model by lens: decoded when they are asked for, and once."""

from __future__ import annotations

import numpy as np
import pytest

from flashinterp.decoding import lens_maps
from flashinterp.decoding.decode import decode
from flashinterp.decoding.lens_maps import DecodedMaps
from tests.helpers import small_checkpoint


def test_each_lens_is_decoded_when_it_is_asked_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, other = (small_checkpoint(np.random.default_rng(i), vocab=120) for i in range(2))
    made: list[str] = []
    monkeypatch.setattr(lens_maps, "decode", lambda *args, **how: made.append(how["lens"]) or decode(*args, **how))
    maps = DecodedMaps(checkpoint, "cpu", head_of=other)
    assert made == []
    paper, write = maps["paper"], maps["write"]
    assert maps["paper"] is paper
    assert made == ["paper", "write"]
    wanted = decode(checkpoint, lens="write", device="cpu", head_of=other)
    assert (write.top_ids == wanted.top_ids).all()
    assert (write.top_ids != decode(checkpoint, lens="write", device="cpu").top_ids).any()
