"""progress.json: where a run stands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from wf_formats.errors import LoadError
from wf_formats.run_files import PROGRESS_FILE, Progress, read_progress, remove_progress, write_progress


def test_progress_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    written = Progress("steps", 7, 120, "1.50 nats apart", 90.5)
    assert abs(written.written_s - time.time()) < 60
    write_progress(tmp_path, written)
    assert read_progress(tmp_path) == written
    remove_progress(tmp_path)
    remove_progress(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[1]", '{"what": "steps"}', '{"speed": 1}'])
def test_what_no_run_wrote_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / PROGRESS_FILE).write_text(text)
    with pytest.raises(LoadError, match=r"progress\.json is damaged"):
        read_progress(tmp_path)
