"""Whether a concept is gone from a model: its probability from several prompt directions, and what else has changed.

The paper's checks (arXiv 2412.10257): the concept's probability is about zero from whichever side it is approached,
and other text keeps its next-token distribution, as the median KL divergence says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import append
from flashinterp.interventions.row_edits import RowEdit, edited_rows
from flashinterp.models.activations import encode
from flashinterp.models.forward_pass import input_device
from flashinterp.studies.concept_erasure.concept_vector import by_length
from flashinterp.studies.concept_erasure.removal import Floats, mean_probability
from flashinterp.tokens import Token

_OTHERS = 12  # texts about something else


@dataclass(frozen=True)
class Texts:
    """The texts of one part on which a concept's removal is measured.

    Attributes:
        directions: by name, sequences [1, positions] after which the concept's probability is taken:
            ``theme`` (prompts of its theme, if it has one: it may come next), ``anything`` (contexts after which any
            word may come), ``just said`` (the same with the concept's token after them) and ``said before`` (the
            concept's token, a full stop, and another context).
        others: sequences about something else, of which all positions count.
    """

    directions: dict[str, list[Tensor]]
    others: list[Tensor]

    @classmethod
    def of(cls, bench: Experiment, token: Token, part: Literal["selection", "heldout"]) -> Texts:
        prompts, device = bench.prompts, input_device(bench.model)

        def ids(texts: Sequence[str]) -> list[Tensor]:
            return [encode(bench.tokenizer, text, device) for text in texts]

        contexts = prompts.contexts_selection if part == "selection" else prompts.contexts_heldout
        contexts = contexts[: bench.profile.contexts]
        group = prompts.group_of(token.text)
        directions = {"theme": ids(getattr(group, part)[: bench.profile.prompts])} if group else {}
        directions["anything"] = ids(contexts)
        directions["just said"] = [append(context, token.id) for context in directions["anything"]]
        turned = (*contexts[1:], *contexts[:1])
        directions["said before"] = ids(
            [f"{one} {token.text.strip()}. {other}" for one, other in zip(contexts, turned, strict=True)]
        )
        if part == "heldout":
            others = prompts.about_something_else(token.text, _OTHERS)
        else:
            own = set(group.selection) if group else set()
            others = tuple(text for text in prompts.selection if text not in own)[:_OTHERS]
        return cls(directions, ids(others))


@dataclass(frozen=True)
class Measured:
    """One state of a model.

    Attributes:
        log_probs: by direction, [texts] of the concept's token at the last position.
        other: [positions, V] log-probabilities on text about something else.
    """

    log_probs: dict[str, Floats]
    other: Tensor

    def probability(self) -> float:
        """The concept's mean probability over all texts of all directions."""
        return mean_probability(self.log_probs)

    def kl(self, clean: Measured) -> Floats:
        """[positions] KL(clean ‖ this) on text about something else, in nats."""
        each = kl_div(self.other, clean.other, reduction="none", log_target=True).sum(-1)
        return each.clamp(min=0).double().cpu().numpy()  # below 0 by rounding only


@torch.no_grad()
def measure_removal(model: Any, texts: Texts, token: Token, edits: Sequence[RowEdit] = ()) -> Measured:
    """Run all texts through a model with some of its rows replaced."""
    with edited_rows(model, edits):
        every = _last(model, [ids for sequences in texts.directions.values() for ids in sequences], token.id)
        logits = [model(ids, use_cache=False).logits.float().flatten(0, 1) for _, ids in by_length(texts.others)]
    ends = np.cumsum([len(sequences) for sequences in texts.directions.values()])[:-1]
    found = dict(zip(texts.directions, np.split(every, ends), strict=True))
    return Measured(found, torch.cat(logits).log_softmax(-1))


def _last(model: Any, sequences: Sequence[Tensor], token_id: int) -> Floats:
    """[texts] a token's log-probability at each text's last position."""
    result = np.empty(len(sequences))
    for places, ids in by_length(sequences):
        logits = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        result[places] = logits.float().log_softmax(-1)[:, token_id].double().cpu().numpy()
    return result
