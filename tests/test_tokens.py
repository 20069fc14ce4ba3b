"""Text to one token and back, for byte-level and SentencePiece-like tokenizers; and what is shown of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fixtures.build import VOCAB
from flashinterp.errors import TokenError
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.tokens import Token, Vocabulary, show

SPECIALS = ("<unk>", "<s>", "</s>")
PIECES = (
    "\u2581dog", "dog", "\u2581", "d", "o", "g", "\u2581hot", "\u2581Cat", "\u2581cats", "<0x0A>", "<0xE2>", "s", "h",
    "t", "\u2581unused", "reserved", "<unused7>", "[unused8]", "<|reserved_special_token_9|>", "<extra_id_3>",
)  # fmt: skip


@pytest.fixture(scope="module")
def sentencepiece() -> Vocabulary:
    """As Llama 2 writes it: "▁" in front of the text and for each space; a head with four padded rows."""
    pieces = {piece: i for i, piece in enumerate((*SPECIALS, *PIECES))}
    tokenizer = Tokenizer(
        models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True, ignore_merges=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return Vocabulary.from_tokenizer(fast, len(pieces) + 4)


@pytest.fixture(scope="module")
def byte_level(planted: Checkpoint) -> Vocabulary:
    """The fixture's: as Llama 3 writes it."""
    return planted.vocabulary


# --- surfaces ---------------------------------------------------------------------------------------


def test_a_surface_is_what_a_token_adds_in_mid_sentence(sentencepiece: Vocabulary) -> None:
    surfaces = sentencepiece.surfaces
    assert surfaces[3:6] == (" dog", "dog", " ")
    assert surfaces[3 + PIECES.index("<0x0A>")] == "\n"
    assert surfaces[3 + PIECES.index("<0xE2>")] == "<bytes <0xE2>>"
    assert surfaces[-4:] == tuple(f"<no token {i}>" for i in range(23, 27))
    assert sentencepiece.prefix_space


def test_every_whole_word_of_the_fixture_is_its_own_surface(byte_level: Vocabulary, planted: Checkpoint) -> None:
    assert not byte_level.prefix_space
    assert {" dog", " California", " Dum", "ble", "dore", "a"} <= set(byte_level.surfaces)
    for i in range(100, len(planted.tokenizer)):
        if not byte_level.surfaces[i].startswith("<bytes"):
            assert planted.tokenizer.decode([i]) == byte_level.surfaces[i]
    assert byte_level.surfaces[len(planted.tokenizer)] == f"<no token {len(planted.tokenizer)}>"


def test_half_a_character_has_no_text_of_its_own(byte_level: Vocabulary, planted: Checkpoint) -> None:
    ids = planted.tokenizer.encode("\u20ac", add_special_tokens=False)
    assert len(ids) == 3
    assert len({byte_level.surfaces[i] for i in ids}) == 3
    assert all(byte_level.surfaces[i].startswith("<bytes ") for i in ids)


def test_special_reserved_unused_and_padded_ids_are_excluded(sentencepiece: Vocabulary) -> None:
    excluded = [sentencepiece.surfaces[i] for i in np.flatnonzero(sentencepiece.excluded)]
    assert excluded == [
        *SPECIALS, "<unused7>", "[unused8]", "<|reserved_special_token_9|>", "<extra_id_3>",
        *(f"<no token {i}>" for i in range(23, 27)),
    ]  # fmt: skip


def test_the_words_unused_and_reserved_are_words(sentencepiece: Vocabulary) -> None:
    for text in (" unused", "reserved"):
        assert not sentencepiece.excluded[sentencepiece.resolve(text).id]


def test_the_fixtures_specials_and_padded_rows_are_excluded(byte_level: Vocabulary, planted: Checkpoint) -> None:
    known = len(planted.tokenizer)
    assert np.flatnonzero(byte_level.excluded).tolist() == [*range(5), *range(known, VOCAB)]


def test_a_special_added_token_is_excluded_and_a_plain_one_is_not() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[U]": 1}, unk_token="[U]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[U]")
    fast.add_tokens([AddedToken("plain", special=False), AddedToken("<tool>", special=True)])
    vocabulary = Vocabulary.from_tokenizer(fast, 4)
    assert vocabulary.surfaces == ("a", "[U]", "plain", "<tool>")
    assert vocabulary.excluded.tolist() == [False, True, False, True]


@pytest.mark.parametrize("size", [3, 4, 8, 10])
def test_ids_with_gaps_and_any_head_size_are_covered(size: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[U]": 1, "b": 3, "c": 7}, unk_token="[U]"))
    vocabulary = Vocabulary.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[U]"), size)
    named = {0: "a", 1: "[U]", 3: "b", 7: "c"}
    assert vocabulary.surfaces == tuple(named.get(i, f"<no token {i}>") for i in range(size))
    assert np.flatnonzero(~vocabulary.excluded).tolist() == [i for i in (0, 3, 7) if i < size]


def test_equality_is_by_surfaces() -> None:
    a = Vocabulary(["x", "y"], [], prefix_space=False)
    assert a == Vocabulary(["x", "y"], [1], prefix_space=True)
    assert a != Vocabulary(["x", "z"], [], prefix_space=False)
    assert a != ("x", "y")
    assert len(a) == 2


# --- resolve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "surface", "form"),
    [
        (" dog", " dog", "as written"),
        ("dog", " dog", "with a leading space"),
        ("ble", "ble", "as written"),
        (" ble", "ble", "without the leading space"),
        ("a", "a", "as written"),
        (" California", " California", "as written"),
    ],
)
def test_byte_level_forms(text: str, surface: str, form: str, byte_level: Vocabulary) -> None:
    token = byte_level.resolve(text)
    assert (token.text, token.form) == (surface, form)
    assert byte_level.surfaces[token.id] == surface


@pytest.mark.parametrize(
    ("text", "surface", "form"),
    [
        ("dog", " dog", "with a leading space"),  # the word, and not the end of "hotdog"
        (" dog", " dog", "as written"),
        ("s", "s", "as written"),
        (" s", "s", "without the leading space"),
        ("Cat", " Cat", "with a leading space"),
    ],
)
def test_sentencepiece_forms(text: str, surface: str, form: str, sentencepiece: Vocabulary) -> None:
    token = sentencepiece.resolve(text)
    assert (token.text, token.form) == (surface, form)


def test_an_id_and_a_token_pass(byte_level: Vocabulary) -> None:
    dog = byte_level.resolve(" dog")
    assert byte_level.resolve(dog.id) == Token(dog.id, " dog", "by id")
    assert byte_level.resolve(np.int32(dog.id)) == Token(dog.id, " dog", "by id")
    assert byte_level.resolve(dog) is dog
    assert str(dog) == "\u2423dog"


@pytest.mark.parametrize("token_id", [-1, VOCAB])
def test_an_id_out_of_range_is_refused(token_id: int, byte_level: Vocabulary) -> None:
    with pytest.raises(TokenError, match=f"ids 0 to {VOCAB - 1}"):
        byte_level.resolve(token_id)


def test_a_word_of_many_tokens_is_refused_with_its_pieces(byte_level: Vocabulary) -> None:
    """And with no other word: one that is spelled alike is about something else."""
    with pytest.raises(TokenError) as caught:
        byte_level.resolve(" Dumbledore")
    assert str(caught.value) == (
        "\u2423Dumbledore is not one token of this vocabulary: its pieces are \u2423Dum, ble, dore; "
        "name another word, or a token id"
    )
    assert byte_level.surfaces[byte_level.piece_ids(" Dumbledore")[0]] == " Dum"


@pytest.mark.parametrize("text", ["", "two words", "\u202e\x1b[31mdog"])
def test_what_is_no_token_is_refused_in_one_harmless_line(text: str, byte_level: Vocabulary) -> None:
    with pytest.raises(TokenError) as caught:
        byte_level.resolve(text)
    assert not {"\n", "\x1b", "\u202e"} & set(str(caught.value))


def test_pieces_of_a_sentencepiece_text_have_one_leading_space(sentencepiece: Vocabulary) -> None:
    assert sentencepiece.pieces("dogs") == sentencepiece.pieces(" dogs")
    assert "".join(sentencepiece.pieces(" hot dog")) == " hot dog"
    with pytest.raises(TokenError, match="its pieces are"):
        sentencepiece.resolve("hotdog")


def test_without_a_tokenizer_there_are_no_pieces_but_the_error_stands() -> None:
    vocabulary = Vocabulary([" dog", " cat"], [], prefix_space=False)
    assert vocabulary.pieces(" dogs") == []
    with pytest.raises(TokenError, match="not one token of this vocabulary; name another word"):
        vocabulary.resolve(" dogs")


def test_of_equal_surfaces_the_first_that_is_no_special_is_meant() -> None:
    vocabulary = Vocabulary([" a", " a", " a", " b", " b"], [0], prefix_space=False)
    assert (vocabulary.resolve(" a").id, vocabulary.resolve(" b").id) == (1, 3)


# --- variants and words -----------------------------------------------------------------------------


def test_variants_are_the_written_forms_that_are_tokens(sentencepiece: Vocabulary) -> None:
    texts = [t.text for t in sentencepiece.variants(sentencepiece.resolve("dog"))]
    assert texts == [" dog", "dog"]
    assert {t.text for t in sentencepiece.variants(sentencepiece.resolve(" Cat"))} == {" Cat", " cats"}


def test_a_token_without_a_word_is_its_own_variant(sentencepiece: Vocabulary) -> None:
    space = sentencepiece.resolve(5)
    assert sentencepiece.variants(space) == [space]


def test_words_are_spaced_letters_and_no_specials(byte_level: Vocabulary) -> None:
    words = [byte_level.surfaces[i] for i in byte_level.words()]
    assert byte_level.words() == sorted(byte_level.words())
    assert {" dog", " California", " Dum"} <= set(words)
    assert all(w.startswith(" ") and w[1:].isalpha() and len(w) > 2 for w in words)
    own = Vocabulary([" dog", "dog", " d", " dog2", " \u00e9t\u00e9", " no", " a_b", "  dog"], [5], prefix_space=False)
    assert own.words() == [0, 4]


# --- show -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" dog", "\u2423dog"),
        ("dog", "dog"),
        ("  ", "\u2423\u2423"),
        ("", "(empty)"),
        ("\n", "\\u{a}"),
        ("a\tb", "a\\u{9}b"),
        ("\x1b[31m", "\\u{1b}[31m"),
        ("\x7f", "\\u{7f}"),
        ("\u202edog", "\\u{202e}dog"),
        ("\u2066dog\u2069", "\\u{2066}dog\\u{2069}"),
        ("do\u200bg", "do\\u{200b}g"),
        ("\ufeffdog", "\\u{feff}dog"),
        ("\u00addog", "\\u{ad}dog"),
        ("\u2028", "\\u{2028}"),
        ("\u00a0dog", "\\u{a0}dog"),
        ("dog\u3000", "dog\\u{3000}"),
        ("\ud800", "\\u{d800}"),
        ("\ue000", "\\u{e000}"),
        (" \u00e9t\u00e9 \U0001f600", "\u2423\u00e9t\u00e9 \U0001f600"),
    ],
)
def test_what_cannot_be_seen_is_shown(text: str, shown: str) -> None:
    assert show(text) == shown


@given(st.text())
def test_whatever_is_shown_is_printable_on_one_line(text: str) -> None:
    shown = show(text)
    assert shown
    assert shown.isprintable()
    assert len(shown.splitlines()) == 1


def test_an_id_is_shown_by_its_surface(byte_level: Vocabulary) -> None:
    assert byte_level.show(byte_level.resolve(" dog").id) == "\u2423dog"


def test_a_vocabulary_says_nothing_of_a_tokenizer_it_was_not_given(byte_level: Vocabulary) -> None:
    copy: Any = Vocabulary(byte_level.surfaces, np.flatnonzero(byte_level.excluded), prefix_space=False)
    assert copy == byte_level
    assert copy.pieces(" Dumbledore") == []
