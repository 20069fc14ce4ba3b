"""Completes a claim from the model's weights: the neuron, pole and lens that its word gives (METHOD 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from flashinterp.decoding.lens_rows import token_logits
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.claims import Claim
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId


def resolve_claim(claim: Claim, maps: LensMaps, checkpoint: Checkpoint) -> Claim:
    """Fill in what a claim leaves open from the weights alone: the neuron, and the pole that names the token.

    Args:
        claim: as written.
        maps: lens to map; must hold the claim's lens.
        checkpoint: for exact scores where the map cannot be certain.

    Raises:
        TokenError, NeuronError: the token or the neuron does not exist in this model.
    """
    found_in = maps[claim.lens]
    token = found_in.vocabulary.resolve(claim.token)
    if claim.neuron is None:
        best = found_in.find(token, 1, claim.pole or "both")
        if not best or not best[0].certain:
            best = found_in.find(token, 1, claim.pole or "both", checkpoint=checkpoint)
        claim = replace(claim, neuron=best[0].neuron, pole=best[0].pole)
    claim_neuron = cast(NeuronId, claim.neuron)
    checkpoint.layout.roster.check(claim_neuron)
    if claim.pole is None:
        at = found_in.index(claim_neuron)
        z = float(token_logits(checkpoint, claim.lens, [token.id], blocks=[claim_neuron.block])[claim_neuron.neuron, 0])
        plus, minus = z - float(found_in.log_mean_top[at]), -z - float(found_in.bottom_log_mean_top[at])
        claim = replace(claim, pole="+" if plus >= minus else "-")  # the higher score, ties to the positive
    return claim
