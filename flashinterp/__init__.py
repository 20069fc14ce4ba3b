"""Read a language model's neurons from its weights, clamp them, and put claims about them to the test.

The public names are those in `__all__`: after `import flashinterp as fi`, `fi.decode`, `fi.clamp`, `fi.sweep`, ...
Each is imported when it is first asked for, so that what needs no model loads no torch. All else is internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashinterp.decoding.contrast import Null as Null
    from flashinterp.decoding.decode import decode as decode
    from flashinterp.decoding.neuron_map import NeuronMap as NeuronMap
    from flashinterp.decoding.search import Match as Match
    from flashinterp.decoding.search import find as find
    from flashinterp.decoding.search import find_each as find_each
    from flashinterp.errors import CheckpointError as CheckpointError
    from flashinterp.errors import ClaimError as ClaimError
    from flashinterp.errors import ClampError as ClampError
    from flashinterp.errors import FlashinterpError as FlashinterpError
    from flashinterp.errors import LayoutError as LayoutError
    from flashinterp.errors import MapError as MapError
    from flashinterp.errors import NeuronError as NeuronError
    from flashinterp.errors import NotComparable as NotComparable
    from flashinterp.errors import RunError as RunError
    from flashinterp.errors import TokenError as TokenError
    from flashinterp.evaluation.prompts import PromptSet as PromptSet
    from flashinterp.evaluation.prompts import read_prompts as read_prompts
    from flashinterp.interventions.answer_judges import lexicon_judge as lexicon_judge
    from flashinterp.interventions.answers import Answers as Answers
    from flashinterp.interventions.clamp import clamp as clamp
    from flashinterp.interventions.clamp_export import Exported as Exported
    from flashinterp.interventions.clamp_export import export_clamped as export_clamped
    from flashinterp.interventions.clamp_values import ClampLog as ClampLog
    from flashinterp.interventions.dose_response import Curves as Curves
    from flashinterp.interventions.dose_response import sweep as sweep
    from flashinterp.interventions.judge_check import JudgeCheck as JudgeCheck
    from flashinterp.interventions.judge_check import Labelled as Labelled
    from flashinterp.interventions.judge_check import check_judge as check_judge
    from flashinterp.interventions.steer import steer as steer
    from flashinterp.interventions.steer import steer_each as steer_each
    from flashinterp.models.checkpoint import Checkpoint as Checkpoint
    from flashinterp.models.checkpoint import open_checkpoint as open_checkpoint
    from flashinterp.models.layout_check import probe as probe
    from flashinterp.neurons import LENSES as LENSES
    from flashinterp.neurons import Block as Block
    from flashinterp.neurons import Lens as Lens
    from flashinterp.neurons import NeuronId as NeuronId
    from flashinterp.studies.concept_erasure.reverse import Reversal as Reversal
    from flashinterp.studies.concept_erasure.reverse import reverse as reverse
    from flashinterp.studies.finetuning.compare import Preservation as Preservation
    from flashinterp.studies.finetuning.compare import compare as compare
    from flashinterp.studies.finetuning.gained_words import gained as gained
    from flashinterp.studies.finetuning.roles import Role as Role
    from flashinterp.studies.finetuning.roles import RoleRule as RoleRule
    from flashinterp.studies.finetuning.roles import judge_roles as judge_roles
    from flashinterp.studies.limitations.known_limits import LIMITS as LIMITS
    from flashinterp.studies.limitations.known_limits import Limit as Limit
    from flashinterp.studies.steering.dose_choice import Bounds as Bounds
    from flashinterp.studies.steering.dose_choice import DoseCurve as DoseCurve
    from flashinterp.studies.steering.dose_curve import dose_curve as dose_curve
    from flashinterp.studies.vocabulary.alignment import Alignment as Alignment
    from flashinterp.studies.vocabulary.alignment import alignment as alignment
    from flashinterp.studies.word_frequency.concentration import concentration as concentration
    from flashinterp.studies.word_frequency.concentration_records import Concentration as Concentration
    from flashinterp.tokens import Token as Token
    from flashinterp.tokens import Vocabulary as Vocabulary

_PUBLIC = {
    "decoding.decode": "decode",
    "decoding.neuron_map": "NeuronMap",
    "decoding.contrast": "Null",
    "decoding.search": "Match find find_each",
    "errors": "CheckpointError ClaimError ClampError FlashinterpError LayoutError MapError NeuronError NotComparable "
    "RunError TokenError",
    "evaluation.prompts": "PromptSet read_prompts",
    "interventions.answer_judges": "lexicon_judge",
    "interventions.answers": "Answers",
    "interventions.clamp": "clamp",
    "interventions.clamp_export": "Exported export_clamped",
    "interventions.clamp_values": "ClampLog",
    "interventions.dose_response": "Curves sweep",
    "interventions.judge_check": "JudgeCheck Labelled check_judge",
    "interventions.steer": "steer steer_each",
    "models.checkpoint": "Checkpoint open_checkpoint",
    "models.layout_check": "probe",
    "neurons": "Block LENSES Lens NeuronId",
    "studies.concept_erasure.reverse": "Reversal reverse",
    "studies.finetuning.compare": "Preservation compare",
    "studies.finetuning.gained_words": "gained",
    "studies.finetuning.roles": "Role RoleRule judge_roles",
    "studies.limitations.known_limits": "LIMITS Limit",
    "studies.steering.dose_choice": "Bounds DoseCurve",
    "studies.steering.dose_curve": "dose_curve",
    "studies.vocabulary.alignment": "Alignment alignment",
    "studies.word_frequency.concentration": "concentration",
    "studies.word_frequency.concentration_records": "Concentration",
    "tokens": "Token Vocabulary",
}
"""The public names by the module that holds them."""
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _PUBLIC.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
