"""A concept as one vector of the residual stream, found as TARS does (arXiv 2412.10257): read out, then refined.

What the paper leaves open is decided here. The vector is read at the end of the last decoder layer, at a text's last
position, as the mean of directions over texts that end in the concept's token or at which it may come next. Then noise
is added, again and again, and what gives the token the highest probability through the final norm and the LM head is
kept. What all texts share stays in the vector: with the mean over other texts taken away, which is a choice here, the
reversed rows found in a trained model of 4 layers took away much less (dog 0.2 nats and not 2.2, lion 1.2 and not 3.4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashinterp.errors import RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import append
from flashinterp.models.activations import encode
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.forward_pass import input_device
from flashinterp.models.layout import module_at
from flashinterp.models.layout_reader import layout_of
from flashinterp.models.norms import cap
from flashinterp.studies.concept_erasure.cosine import cosine
from flashinterp.tokens import Token

ENOUGH = 0.99
"""The probability at which the search stops: more says nothing of the direction, only of its length."""
_STEPS = 200
_TRIES = 64  # noisy vectors a step
_SIZES = (0.02, 0.05, 0.1, 0.2, 0.4)  # the noise's norm over the vector's; drawn, since no one size suits all
_ROWS = 32  # texts of one length that share a pass


@dataclass(frozen=True)
class ConceptVector:
    """One concept's direction in the residual stream.

    Attributes:
        token: the concept.
        approximate: [d] float32 what the texts aggregate.
        refined: [d] the same, after the search; of the same norm.
        p_approximate, p_refined: the token's probability when the vector goes through the final norm and the head.
        steps: of the search.
        texts: how many aggregate it.
    """

    token: Token
    approximate: Tensor
    refined: Tensor
    p_approximate: float
    p_refined: float
    steps: int
    texts: int

    @property
    def kept(self) -> float:
        """Cosine of the refined vector with the approximate one: how much of what was read out is left."""
        return cosine(self.approximate.numpy(), self.refined.numpy())


def concept_vector(
    bench: Experiment, token: Token, *, rng: np.random.Generator, centred: bool = False
) -> ConceptVector:
    """Read a concept's vector out of a model and refine it; only selection texts are used.

    Args:
        bench: the model and the texts.
        token: the concept.
        rng: the noise.
        centred: whether the mean over other texts is taken away.

    Raises:
        RunError: nothing is left of it.
    """
    own, others = concept_texts(bench, token)
    states = last_states(bench.model, own)
    vector = (states / states.norm(dim=1, keepdim=True)).mean(0)
    if centred:
        around = last_states(bench.model, others)
        vector = vector - (around / around.norm(dim=1, keepdim=True)).mean(0)
    if not float(vector.norm()) > 0:
        raise RunError(f"the texts about {token} leave no vector: give texts that differ from the others")
    # A residual stream's length, so that the final norm's epsilon does not count.
    vector = vector * (states.norm(dim=1).mean() / vector.norm())
    head = Readout.of(bench.checkpoint, device=states.device)
    refined, steps = refine(vector, lambda rows: head.log_prob(rows, token.id), rng)
    p = head.log_prob(torch.stack([vector, refined]), token.id).exp()
    return ConceptVector(token, vector.cpu(), refined.cpu(), float(p[0]), float(p[1]), steps, len(own))


def concept_texts(bench: Experiment, token: Token) -> tuple[list[Tensor], list[Tensor]]:
    """Selection texts [1, positions] about a concept, and those about other things.

    About it are the contexts with its token at the end, and its theme's prompts, where it has one.
    """
    device = input_device(bench.model)
    group = bench.prompts.group_of(token.text)
    contexts = [encode(bench.tokenizer, text, device) for text in bench.prompts.contexts_selection]
    said = [append(context, token.id) for context in contexts]
    theme = [] if group is None else list(group.selection)
    others = [text for text in bench.prompts.selection[: bench.profile.selection] if text not in theme]
    told = [encode(bench.tokenizer, text, device) for text in theme]
    return said + told, contexts + [encode(bench.tokenizer, text, device) for text in others]


def refine(vector: Tensor, log_prob: Callable[[Tensor], Tensor], rng: np.random.Generator) -> tuple[Tensor, int]:
    """Search by noise: of many noisy copies of the vector the best is kept if it is better; its norm stays.

    Args:
        vector: [d].
        log_prob: the concept token's, of rows [n, d].
        rng: the noise.

    Returns:
        The best vector, and after how many steps: fewer than 200 where its probability is `ENOUGH`.
    """
    norm, best, at = vector.norm(), vector, float(log_prob(vector[None])[0])
    for step in range(_STEPS):
        if at >= np.log(ENOUGH):
            return best, step
        sizes = rng.choice(_SIZES, size=(_TRIES, 1)) / len(vector) ** 0.5
        noise = torch.as_tensor(sizes * rng.standard_normal((_TRIES, len(vector))), dtype=vector.dtype)
        tried = best + norm * noise.to(vector.device)
        tried = tried * (norm / tried.norm(dim=1, keepdim=True))
        found = log_prob(tried)
        if float(found.max()) > at:
            best, at = tried[int(found.argmax())], float(found.max())
    return best, _STEPS


@dataclass(frozen=True)
class Readout:
    """What the model makes of the end of its residual stream: final norm, head, bias, soft-cap; in float32."""

    checkpoint: Checkpoint
    head: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: Any = "cpu") -> Readout:
        bias = checkpoint.head_bias()
        return cls(checkpoint, checkpoint.head().float().to(device), None if bias is None else bias.float().to(device))

    def log_prob(self, rows: Tensor, token_id: int) -> Tensor:
        """[n] the token's log-probability, of vectors [n, d]."""
        norm = self.checkpoint.norm("final")
        z = (rows if norm is None else norm(rows)) @ self.head.T
        z = cap(z if self.bias is None else z + self.bias, self.checkpoint.layout.softcap)
        result: Tensor = z.log_softmax(-1)[:, token_id]
        return result


@torch.no_grad()
def last_states(model: Any, sequences: Sequence[Tensor]) -> Tensor:
    """[texts, d] float32 the residual stream at each text's last position, as it leaves the last decoder layer."""
    layout = layout_of(model)
    last = module_at(model, layout.layer(layout.n_layers - 1), layout.model_type)
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, out: Any) -> None:
        hidden = out[0] if isinstance(out, tuple) else out
        seen.append(hidden[:, -1].float())

    states: list[Tensor | None] = [None] * len(sequences)
    with last.register_forward_hook(keep):
        for places, ids in by_length(sequences):
            model(ids, use_cache=False, logits_to_keep=1)
            for place, state in zip(places, seen.pop(), strict=True):
                states[place] = state
    return torch.stack([state for state in states if state is not None])


def by_length(sequences: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Texts [1, positions] of one length together: their places, and their ids [rows, positions]."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(sequences):
        places[ids.shape[1]].append(place)
    for same in places.values():
        for first in range(0, len(same), _ROWS):
            chunk = same[first : first + _ROWS]
            yield chunk, torch.cat([sequences[place] for place in chunk])
