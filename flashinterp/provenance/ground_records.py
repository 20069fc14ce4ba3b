"""Ids of the records whose modules lie below this package, and so must not import it."""

from __future__ import annotations

from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block, NeuronId
from flashinterp.provenance.registry import register_record
from flashinterp.stats import Interval
from flashinterp.tokens import Token

register_record(Block, "neurons.block", 1)


register_record(NeuronId, "neurons.neuron_id", 1)


register_record(NeuronIndex, "neurons.neuron_index", 1)


register_record(Interval, "stats.interval", 1)


register_record(Token, "tokens.token", 1)
