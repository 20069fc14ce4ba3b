"""The public names, in one list. The package gives each when it is first asked for."""

from flashinterp.alignment import Alignment, alignment
from flashinterp.checkpoint import Checkpoint, open_checkpoint
from flashinterp.clamp import ClampLog, clamp
from flashinterp.concentration import Concentration, concentration
from flashinterp.dosing import Bounds, DoseCurve, dose_curve
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
from flashinterp.export import Exported, export_clamped
from flashinterp.gains import gained
from flashinterp.judges import JudgeCheck, Labelled, check_judge, lexicon_judge
from flashinterp.limits import LIMITS, Limit
from flashinterp.neuron import LENSES, Block, Lens, NeuronId
from flashinterp.neuron_map import NeuronMap
from flashinterp.preserve import Preservation, compare
from flashinterp.probe import probe
from flashinterp.prompts import PromptSet, read_prompts
from flashinterp.reverse import Reversal, reverse
from flashinterp.roles import Role, RoleRule, judge_roles
from flashinterp.scan import decode
from flashinterp.steer import Answers, steer, steer_each
from flashinterp.sweep import Curves, sweep
from flashinterp.tokens import Token, Vocabulary

__all__ = [
    "LENSES",
    "LIMITS",
    "Alignment",
    "Answers",
    "Block",
    "Bounds",
    "Checkpoint",
    "CheckpointError",
    "ClaimError",
    "ClampError",
    "ClampLog",
    "Concentration",
    "Curves",
    "DoseCurve",
    "Exported",
    "FlashinterpError",
    "JudgeCheck",
    "Labelled",
    "LayoutError",
    "Lens",
    "Limit",
    "MapError",
    "NeuronError",
    "NeuronId",
    "NeuronMap",
    "NotComparable",
    "Preservation",
    "PromptSet",
    "Reversal",
    "Role",
    "RoleRule",
    "RunError",
    "Token",
    "TokenError",
    "Vocabulary",
    "alignment",
    "check_judge",
    "clamp",
    "compare",
    "concentration",
    "decode",
    "dose_curve",
    "export_clamped",
    "gained",
    "judge_roles",
    "lexicon_judge",
    "open_checkpoint",
    "probe",
    "read_prompts",
    "reverse",
    "steer",
    "steer_each",
    "sweep",
]
