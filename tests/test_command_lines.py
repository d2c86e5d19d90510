"""Every command line in the pages exists: commands, options, overrides, files (wf_deployer.doctor.pages)."""

import sys
from pathlib import Path

from wf_deployer.doctor.pages.checking import judge_pages


def test_command_lines_in_the_pages_exist(workspace_root: Path) -> None:
    judgement = judge_pages(workspace_root, Path(sys.executable))
    assert not judgement.problems, "\n".join(map(str, judgement.problems))
    assert judgement.num_lines > 100
