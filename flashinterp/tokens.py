"""Text to exactly one token id and back, and how a token is shown to a person, safely (METHOD 9).

" dog", "dog" and " Dog" are different tokens, and tokenizers write a leading space in different ways.
Here every id has one *surface*: the text that it adds in the middle of a sentence, leading space included.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashinterp.errors import TokenError

# Only in brackets, as in <unused7>, [unused7] and <|reserved_special_token_7|>: "unused" alone is a word.
_UNUSED = re.compile(r"(<\|?|\[)(reserved|unused|extra_id|dummy)\w*(\|?>|\])", re.IGNORECASE)
# Never printed as they are: controls, bidi and zero-width format characters, surrogates, separators but a space.
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
_SENTENCEPIECE_SPACE = "\u2581"


def show(text: str) -> str:
    """Make one token's text visible and harmless: ``" dog"`` becomes ``␣dog``, controls become escapes."""
    if not text:
        return "(empty)"
    body = text.lstrip(" ")
    visible = "".join(
        f"\\u{{{ord(c):x}}}" if c != " " and unicodedata.category(c) in _HIDDEN_CATEGORIES else c for c in body
    )
    return "␣" * (len(text) - len(body)) + visible


@dataclass(frozen=True)
class Token:
    """One token id, its surface, and which form of the user's text it is.

    Attributes:
        id: the row of the LM head.
        text: the surface, as in ``" dog"``.
        form: ``as written``, ``with a leading space``, ``without the leading space`` or ``by id``.
    """

    id: int
    text: str
    form: str

    def __str__(self) -> str:
        return show(self.text)


class Vocabulary:
    """The surfaces of all V ids of a head, and the ids that no person would call a word.

    Attributes:
        surfaces: V texts, by id; ids that the tokenizer lacks get a text that says so.
        excluded: [V] bool; special, reserved, unused and padded ids, which are never "the top token"
            unless asked for.
        prefix_space: whether this tokenizer puts a space before the text's first word by itself.
    """

    def __init__(
        self, surfaces: Sequence[str], excluded: Sequence[int], *, prefix_space: bool, tokenizer: Any = None
    ) -> None:
        self.surfaces = tuple(surfaces)
        self.excluded = np.zeros(len(self.surfaces), dtype=bool)
        self.excluded[np.asarray(list(excluded), dtype=np.int64)] = True
        self.prefix_space = prefix_space
        self._tokenizer = tokenizer
        self._ids: dict[str, int] = {}  # the lowest id of each surface, one that is not excluded where there is one
        for i in (*np.flatnonzero(self.excluded)[::-1].tolist(), *np.flatnonzero(~self.excluded)[::-1].tolist()):
            self._ids[self.surfaces[i]] = i

    def __len__(self) -> int:
        return len(self.surfaces)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.surfaces == other.surfaces

    __hash__ = None  # type: ignore[assignment]  # equality is by content

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, size: int) -> Vocabulary:
        """Read the surfaces of ids 0 to size - 1 from a transformers tokenizer; size is the head's rows."""
        known = min(max(tokenizer.get_vocab().values(), default=-1) + 1, size)  # ids may have gaps
        pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
        decoded = tokenizer.batch_decode(
            [[i] for i in range(known)], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        lone = enumerate(zip(pieces, decoded, strict=True))
        surfaces = [f"<no token {i}>" if piece is None else _surface(piece, text) for i, (piece, text) in lone]
        surfaces += [f"<no token {i}>" for i in range(known, size)]

        special = {i for i in tokenizer.all_special_ids if i < size}
        special |= {i for i, t in tokenizer.added_tokens_decoder.items() if t.special and i < size}
        unused = {i for i, piece in enumerate(pieces) if piece is None or _UNUSED.fullmatch(piece)}
        first = tokenizer.tokenize("a")
        return cls(
            surfaces,
            sorted(special | unused | set(range(known, size))),
            prefix_space=bool(first) and first[0].startswith((_SENTENCEPIECE_SPACE, "Ġ")),
            tokenizer=tokenizer,
        )

    def show(self, token_id: int) -> str:
        """The printed name of an id."""
        return show(self.surfaces[token_id])

    def resolve(self, token: str | int | Token) -> Token:
        """Return the one token that a person means by this text, or that has this id.

        The forms are tried in order: the text as written, then with or without its leading space. Where
        the tokenizer itself puts a space before a text's first word, the spaced form comes first, so
        that "dog" means the word and not the end of "hotdog".

        Raises:
            TokenError: the text is not one token; the error lists its pieces.
        """
        if isinstance(token, Token):
            return token
        if not isinstance(token, str):
            return self._by_id(int(token))
        for form, text in self._forms(token):
            if text in self._ids:
                return Token(self._ids[text], text, form)
        pieces = self.pieces(token)
        told = f": its pieces are {', '.join(map(show, pieces))}" if pieces else ""
        raise TokenError(f"{show(token)} is not one token of this vocabulary{told}; name another word, or a token id")

    def _by_id(self, token_id: int) -> Token:
        if not 0 <= token_id < len(self):
            raise TokenError(
                f"token id {token_id} is out of range: this head has ids 0 to {len(self) - 1}; give one of these"
            )
        return Token(token_id, self.surfaces[token_id], "by id")

    def _forms(self, text: str) -> list[tuple[str, str]]:
        if not text:
            return []
        if text.startswith(" "):
            return [("as written", text), ("without the leading space", text.lstrip(" "))]
        forms = [("as written", text), ("with a leading space", " " + text)]
        return forms[::-1] if self.prefix_space else forms

    def pieces(self, text: str) -> list[str]:
        """The surfaces of the tokens that the tokenizer makes of a text; empty without a tokenizer."""
        return [self.surfaces[i] for i in self.piece_ids(text)]

    def piece_ids(self, text: str) -> list[int]:
        """The ids of the same."""
        if self._tokenizer is None:
            return []
        if self.prefix_space:
            text = text.removeprefix(" ")  # the tokenizer puts it there again
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def variants(self, token: Token) -> list[Token]:
        """The written forms of a token's word that are single tokens: spaced or not, cased, with an s."""
        word = token.text.strip()
        if not word:
            return [token]
        words = [word, word.lower(), word.capitalize(), word.upper()]
        forms = [lead + w + tail for w in dict.fromkeys(words) for tail in ("", "s") for lead in (" ", "")]
        return [Token(self._ids[f], f, "variant") for f in dict.fromkeys(forms) if f in self._ids]

    def words(self) -> list[int]:
        """Ids that look like words: a leading space, then two letters or more; ascending."""
        return [
            i
            for i, s in enumerate(self.surfaces)
            if not self.excluded[i] and re.fullmatch(r" [^\W\d_]{2,}", s) is not None
        ]


def _surface(piece: str, decoded: str) -> str:
    """The text that a token adds in mid-sentence, from its vocabulary entry and its lone decoding.

    SentencePiece decoders drop the space of a lone "▁dog", so it is read from the entry; byte-level
    entries are an encoding of bytes, so they are read from the decoder.
    """
    if _SENTENCEPIECE_SPACE in piece:
        return piece.replace(_SENTENCEPIECE_SPACE, " ")
    if "\ufffd" in decoded and "\ufffd" not in piece:
        return f"<bytes {piece}>"  # part of a character: has no text of its own
    return decoded if decoded or not piece else piece
