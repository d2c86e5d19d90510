from __future__ import annotations

from pathlib import Path

import pytest

from wrinklefree.config.logging import LoggingConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.loggers import CsvLogger, build_loggers


def test_rows_keep_all_digits_and_new_columns_join(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "m.csv", resume_step=0)
    logger.log_metrics({"a": 0.1 + 0.2}, step=1)
    logger.log_metrics({"a": 1.0, "b": 5.0}, step=2)
    logger.save()
    rows = logger.rows()
    assert float(rows[0]["a"]) == 0.1 + 0.2
    assert [row["b"] for row in rows] == ["", "5.0"]


def test_resuming_drops_later_and_torn_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    first = CsvLogger(path, resume_step=0)
    for step in (1, 2, 3):
        first.log_metrics({"a": float(step)}, step=step)
    with path.open("a") as file:
        file.write("4,4.")
    resumed = CsvLogger(path, resume_step=2)
    resumed.log_metrics({"a": 30.0}, step=3)
    assert [(row["step"], row["a"]) for row in resumed.rows()] == [
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "30.0"),
    ]


def test_a_new_run_replaces_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("step,z\n9,1.0\n")
    logger = CsvLogger(path, resume_step=0)
    logger.log_metrics({"a": 1.0}, step=1)
    assert path.read_text() == "step,a\n1,1.0\n"


def test_tensorboard_is_built_on_request(tmp_path: Path) -> None:
    config = TrainConfig(logging=LoggingConfig(csv=True, tensorboard=True))
    kinds = [type(x).__name__ for x in build_loggers(config, tmp_path, {"fingerprint": "id"}, 0)]
    assert kinds == ["CsvLogger", "TensorBoardLogger"]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "m.csv", resume_step=0)
    logger.log_metrics({"loss": 2.0}, step=1)
    (tmp_path / "m.csv").unlink()
    (tmp_path / "m.csv").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as found:
        logger.log_metrics({"loss": 1.0}, step=2)
    assert found.value.filename == str(tmp_path / "m.csv")
