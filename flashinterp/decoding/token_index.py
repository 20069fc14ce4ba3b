"""The inverted index of a map: from a token to the neurons that score it highest, without a scan.

A map lists each neuron's tokens; the question is mostly the other way round. Per pole and token the index
keeps the places of the best neurons, best first, which answers every `find` that asks for no more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEPTH = 32
"""Neurons kept per pole and token: 33 MB for a vocabulary of 128,256, and more than a person reads."""
BOUND_ROWS = 256
"""Neurons kept by the size of their bound: the first that does not list a token bounds all that do not."""


@dataclass(frozen=True)
class PoleIndex:
    """One pole's index.

    Attributes:
        places: [V, 32] int32, flat positions in ids [N, k], best score first, ties to the lower neuron; -1
            beyond the last.
        bound_rows: [256] int32, the neurons with the highest score of their k-th token, highest first.
    """

    places: NDArray[np.int32]
    bound_rows: NDArray[np.int32]
