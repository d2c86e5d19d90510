"""Text, stop strings and tokens in step."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree_inference.native.request import TokenLogprob
from wrinklefree_inference.native.stops import StopMatcher, TextAssembler


class Words:
    """Each token is one text; None is a token whose character is not complete."""

    def __init__(self, texts, rest=""):
        self.texts, self.rest = texts, rest

    def push(self, token_id):
        return self.texts[token_id] or ""

    def flush(self):
        return self.rest


def assemble(texts, stops, rest=""):
    """(shown pieces, token ids with the piece, whether it stopped)."""
    assembler, pieces = TextAssembler(Words(texts, rest), stops), []
    for i in range(len(texts)):
        piece = assembler.push(i, TokenLogprob(i, texts[i] or "", b"", -1.0))
        assert [entry.token_id for entry in piece.logprobs] == list(piece.token_ids)
        pieces.append(piece)
        if piece.is_stopped:
            return pieces
    return [*pieces, assembler.finish()]


def shown(pieces):
    return "".join(piece.text for piece in pieces), [i for piece in pieces for i in piece.token_ids]


def test_without_stop_strings_everything_goes_out_at_once():
    pieces = assemble(["a", "bc", None, "d"], ())
    assert [(piece.text, piece.token_ids) for piece in pieces] == [
        ("a", (0,)),
        ("bc", (1,)),
        ("", ()),
        ("d", (2, 3)),
        ("", ()),
    ]


def test_a_stop_string_over_three_tokens():
    pieces = assemble(["one ", "E", "N", "D two"], ("END",))
    assert [piece.text for piece in pieces] == ["one ", "", "", ""]
    assert pieces[-1].is_stopped
    assert shown(pieces) == ("one ", [0])


def test_held_text_goes_out_when_it_was_no_stop_string():
    pieces = assemble(["x E", "N", "d"], ("END",))
    assert [(piece.text, piece.token_ids) for piece in pieces] == [
        ("x ", ()),
        ("", ()),
        ("ENd", (0, 1, 2)),
        ("", ()),
    ]


def test_held_text_goes_out_at_the_end():
    assert shown(assemble(["x E", "N"], ("END",))) == ("x EN", [0, 1])


def test_the_token_in_which_a_stop_string_begins_is_given_out_if_text_of_it_is():
    assert shown(assemble(["ab", "c E", "ND"], ("END",))) == ("abc ", [0, 1])
    assert shown(assemble(["ab", "END"], ("END",))) == ("ab", [0])


def test_what_is_flushed_can_complete_a_stop_string():
    pieces = assemble(["ab", None], ("b!",), rest="!")
    assert shown(pieces) == ("a", [0])
    assert pieces[-1].is_stopped


def test_a_repetitive_stop_string():
    assert shown(assemble(list("aabaabaaab"), ("aabaaa",)))[0] == "aab"


def test_of_two_completed_by_one_character_the_longer_counts():
    assert shown(assemble(list("xabc"), ("c", "abc")))[0] == "x"
    assert shown(assemble(list("xabc"), ("b", "abc")))[0] == "xa"


def first_completed(text, stops):
    """Where the first completed stop string begins, by trying all ends."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return end - max(lengths)
    return None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=3).map(tuple),
)
def test_any_pieces_stop_where_the_whole_text_would(pieces, stops):
    text = "".join(pieces)
    expected = first_completed(text, stops)
    result = assemble(pieces, stops)
    assert result[-1].is_stopped == (expected is not None)
    shown_text, ids = shown(result)
    assert shown_text == (text if expected is None else text[:expected])
    assert ids == list(range(len(ids)))
    if expected is None:
        assert len(ids) == len(pieces)
    else:
        ends = list(itertools.accumulate(len(piece) for piece in pieces))
        assert all(end <= expected for end in ends[: max(0, len(ids) - 1)])
        assert all(
            end >= expected for end, piece in zip(ends[len(ids) :], pieces[len(ids) :], strict=True) if piece
        )


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=5))
def test_no_more_is_held_than_could_become_a_stop_string(text, stop):
    matcher = StopMatcher((stop,))
    if matcher.feed(text) is None:
        held = max((k for k in range(len(stop)) if text.endswith(stop[:k])), default=0)
        assert matcher.num_held == held


@pytest.mark.parametrize("stops", [(), ("never",)])
def test_every_token_goes_out(stops):
    assert shown(assemble([None, "a", None, None, "b", None], stops, rest="?")) == ("ab?", [0, 1, 2, 3, 4, 5])
