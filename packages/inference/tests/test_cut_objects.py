"""Which texts are the beginning of an object of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree_inference.tool_calls.cut import is_cut_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50)
@given(
    value=st.dictionaries(st.text(max_size=5), VALUES),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_every_beginning_of_an_object_is_one(
    value: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    for length in range(1, len(text)):
        assert is_cut_object(text[:length]), text[:length]


@pytest.mark.parametrize(
    "text",
    [
        "{hello",
        "{ call the weather }",
        "{'city': 'Be",
        "{1: 2",
        "{,",
        '{"a" "b',
        '{"a": }',
        '{"a": b',
        '{"a": "b" "c',
        '{"a": "b" c',
        '{"a": 1 2',
        '{"a": 01',
        '{"a": 1.x',
        '{"a": [1 2',
        '{"a": 1}}',
        '{"a": 1} and more',
        '{"a": 1}, {"b": ',
        '{"a": "\\x',
        '{"a": "b\n',
        '[{"a": ',
        '"text',
        "",
    ],
)
def test_what_no_end_could_mend_is_none(text: str) -> None:
    assert not is_cut_object(text)
