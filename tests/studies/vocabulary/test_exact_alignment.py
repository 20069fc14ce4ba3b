"""Alignments beside the whole product, and the words of a neuron on both poles."""

from __future__ import annotations

import numpy as np
import pytest

from flashinterp.decoding.decode import decode
from flashinterp.neurons import Block
from flashinterp.studies.vocabulary.alignment import alignment_of
from flashinterp.studies.vocabulary.exact_alignment import WORDS, both_poles_words, exact_alignment
from tests.helpers import small_checkpoint


def test_it_is_the_largest_absolute_logit() -> None:
    checkpoint = small_checkpoint(np.random.default_rng(3))
    head, down = checkpoint.head().double().numpy(), checkpoint.rows("down", 1).double().numpy()
    wanted = [max(abs(float(u @ w)) for u in head) for w in down[:4]]
    assert exact_alignment(checkpoint, Block(1), 4) == pytest.approx(np.array(wanted))
    aligned = alignment_of(decode(checkpoint, lens="logit-lens", top_k=8, device="cpu"))
    assert aligned.max_abs[checkpoint.layout.roster.span(Block(1))][:4] == pytest.approx(np.array(wanted), rel=1e-5)
    words = both_poles_words(aligned, 0)
    assert len(words) == 2 * WORDS
    z = checkpoint.head().double() @ checkpoint.rows("down", 0)[0].double()
    assert [z for _, z in words[:WORDS]] == pytest.approx(z.sort(descending=True).values[:WORDS].tolist(), rel=1e-5)
    assert max(abs(logit) for _, logit in words) == pytest.approx(float(z.abs().max()), rel=1e-5)
