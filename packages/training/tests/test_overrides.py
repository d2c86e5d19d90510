from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from wf_formats.overrides import override

HARD = [
    "",
    "1e5",
    "true",
    "null",
    "nan",
    "a b=ü",
    "/tmp/it's (1), [2] {3}: ~x=y",
    '"quoted"',
    "'quoted'",
    "ends with \\",
    "\\\\'",
    "${a}",
    "\\${a}",
    "x\\\\${oc.env:HOME}",
    "$HOME",
    "choice(a,b)",
    "range(3)",
    "line\nbreak\ttab",
    "日本 🙂",
]


def _read(text: str) -> object:
    """What Hydra and then OmegaConf make of `key=text`."""
    (parsed,) = OverridesParser.create().parse_overrides([text])
    return OmegaConf.create({"a": "interpolated", "key": parsed.value()}).key


@pytest.mark.parametrize("value", HARD)
def test_hard_values_arrive_as_they_are(value: str) -> None:
    assert _read(override("key", value)) == value


@given(st.text(st.sampled_from("ab'\"\\${}(), =~[]:ü\n")))
def test_every_value_arrives_as_it_is(value: str) -> None:
    assert _read(override("key", value)) == value
