"""What can go wrong, in one line each: what happened, with the values, and the next step.

Every error that a user can cause or cure is a `FlashinterpError`; anything else that escapes is a bug.
"""


class FlashinterpError(Exception):
    """Base of every error that flashinterp raises on purpose."""


class CheckpointError(FlashinterpError):
    """A model's files or weights cannot be read, or are not what they claim to be."""


class LayoutError(FlashinterpError):
    """An architecture is unknown, or a model does not compute what its layout says."""


class NeuronError(FlashinterpError):
    """A neuron, layer, site, pole or lens was named that does not exist here."""


class TokenError(FlashinterpError):
    """A text is not exactly one token of this vocabulary."""


class MapError(FlashinterpError):
    """A neuron map cannot be read, or does not fit what it is asked about."""


class ClampError(FlashinterpError):
    """A clamp cannot be set, or was set and never fired."""


class NotComparable(FlashinterpError):
    """Two models cannot be compared neuron by neuron; a verdict, not a failure."""


class ClaimError(FlashinterpError):
    """A claim file is wrong, or its design cannot reach significance."""


class RunError(FlashinterpError):
    """A run folder cannot be written, or what is written there is not valid evidence."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough to stand in a line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
