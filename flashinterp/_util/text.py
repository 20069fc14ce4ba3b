"""Text from models and tokenizers made safe to show: hidden characters visible, length cut, names of files checked."""

from __future__ import annotations

import re
import unicodedata

from flashinterp.errors import RunError

# Control, format (bidi, zero-width), surrogate and private-use characters, line and paragraph
# separators: what can move a cursor, reverse a line, or hide.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_SLUG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,118}[A-Za-z0-9])?")


def safe_text(text: str) -> str:
    r"""Make what cannot be seen visible: U+202E becomes ``\u{202e}``, a newline ``\u{a}``.

    Covers Unicode categories Cc, Cf, Cs, Co, Zl and Zp, and noncharacters, which XML cannot hold; everything else is
    kept as it is. A text that spells such an escape itself comes out the same: this is for reading, not for decoding.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate({ord(char): f"\\u{{{ord(char):x}}}" for char in set(text) if _is_hidden(char)})


def _is_hidden(char: str) -> bool:
    code = ord(char)
    return unicodedata.category(char) in _HIDDEN or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


def clip(text: str, limit: int) -> str:
    """Cut a text after ``limit`` characters, and say how many there were."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def check_name(name: str) -> str:
    """Return the name if it can be a file's name anywhere: letters, digits, and ``-_.`` inside.

    Raises:
        RunError: it is empty, too long, holds a separator or "..", or starts or ends with a sign.
    """
    if not isinstance(name, str) or _SLUG.fullmatch(name) is None or ".." in name:
        shown = clip(safe_text(str(name)), 80)
        raise RunError(
            f"{shown!r} cannot name a file of a run: use up to 120 letters, digits, '-', '_' and "
            "single '.', with a letter or digit at both ends"
        )
    return name


def one_line(text: str) -> str:
    """A message in one line, with what cannot be seen made visible."""
    return safe_text(" ".join(text.split()))
