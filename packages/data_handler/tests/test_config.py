from __future__ import annotations

import subprocess
import sys

import pytest

from data_handler import DataError, SourceConfig, SourceKind, TextUnit
from data_handler.mixing import check_sources


def test_strings_become_members() -> None:
    source = SourceConfig("path", "a", ("x.txt", "y.txt"), text_unit="line")
    assert source.kind is SourceKind.path
    assert source.text_unit is TextUnit.line
    assert source.location == ["x.txt", "y.txt"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "web", "location": "x"}, "kind is 'web', not one of"),
        ({"kind": "path"}, "needs a location"),
        ({"kind": "path", "location": 3}, "location is 3"),
        ({"kind": "path", "location": "x", "weight": -1}, "weight is -1"),
        ({"kind": "path", "location": "x", "weight": float("nan")}, "weight is nan"),
        ({"kind": "path", "location": "x", "text_unit": "page"}, "text_unit is 'page'"),
        ({"kind": "hub", "location": ["x", "y"]}, "one repository id"),
        ({"kind": "packaged"}, "no packaged text 'mine'"),
        ({"kind": "packaged", "location": ["python_docs", "java"]}, "no packaged text 'java'"),
    ],
)
def test_a_value_that_does_not_fit_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SourceConfig(name="mine", **fields)


def test_a_mixture_needs_distinct_sources_with_weight() -> None:
    one = SourceConfig("packaged", "python_docs")
    with pytest.raises(DataError, match="no data source"):
        check_sources([])
    with pytest.raises(DataError, match=r"more than once.*python_docs"):
        check_sources([one, one])
    with pytest.raises(DataError, match="weights of all sources are 0"):
        check_sources([SourceConfig("packaged", "python_docs", weight=0)])


def test_settings_are_read_without_torch() -> None:
    code = (
        "import data_handler, data_handler.influence, sys; data_handler.SourceConfig; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
