"""Read a language model's neurons from its weights, clamp them, and put claims about them to the test."""

from flashinterp.alignment import Alignment, alignment
from flashinterp.checkpoint import Checkpoint, open_checkpoint
from flashinterp.clamp import ClampLog, clamp
from flashinterp.errors import (
    CheckpointError,
    ClaimError,
    ClampError,
    FlashinterpError,
    LayoutError,
    MapError,
    NeuronError,
    NotComparable,
    RunError,
    TokenError,
)
from flashinterp.neuron import LENSES, Block, Lens, NeuronId
from flashinterp.neuron_map import NeuronMap
from flashinterp.preserve import Preservation, compare
from flashinterp.probe import probe
from flashinterp.scan import decode
from flashinterp.steer import Answers, lexicon_judge, steer
from flashinterp.sweep import Curves, sweep
from flashinterp.tokens import Token, Vocabulary

__all__ = [
    "LENSES",
    "Alignment",
    "Answers",
    "Block",
    "Checkpoint",
    "CheckpointError",
    "ClaimError",
    "ClampError",
    "ClampLog",
    "Curves",
    "FlashinterpError",
    "LayoutError",
    "Lens",
    "MapError",
    "NeuronError",
    "NeuronId",
    "NeuronMap",
    "NotComparable",
    "Preservation",
    "RunError",
    "Token",
    "TokenError",
    "Vocabulary",
    "alignment",
    "clamp",
    "compare",
    "decode",
    "lexicon_judge",
    "open_checkpoint",
    "probe",
    "steer",
    "sweep",
]
