"""A tiny random Llama with a byte tokenizer, a little text, and the command line in process."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compose_once import composing_once

from wf_formats import run_files
from wrinklefree import train

TINY_STEPS = [
    "distributed.accelerator=cpu",
    "training.sequence_length_tokens=32",
    "training.batch_size=2",
    "training.schedule.warmup=2",
]
"""Of the stages with gradients."""
TINY = {
    "stage1_subln": [
        "training.fit.tokens=512",
        "training.fit.sequence_length_tokens=32",
        "training.fit.evaluation_tokens=64",
    ],
    "stage1_5_calibrate": [],
    "awq": [
        "model.scheme=int4-group32",
        "training.awq.tokens=512",
        "training.awq.sequence_length_tokens=32",
        "training.awq.search_tokens=128",
        "training.awq.evaluation_tokens=512",
        "training.awq.num_exponents=4",
    ],
    "stage2_5_correct": [
        "training.low_rank.rank=4",
        "training.low_rank.tokens=512",
        "training.low_rank.sequence_length_tokens=32",
        "training.low_rank.evaluation_tokens=64",
    ],
}
"""Of the others."""


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    with composing_once():
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread keeps sums in one order; runs change these globals."""
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of progress files that need not survive a power cut."""

    def write(path: Path, value: Any) -> None:
        path.write_text(json.dumps(value))

    monkeypatch.setattr(run_files, "atomic_write_json", write)


@pytest.fixture(scope="session")
def dense_dir(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_llama: Callable[..., Any],
    byte_tokenizer: Callable[..., Any],
) -> Path:
    """HF folder of a random Llama: hidden 64, ffn 128, 2 layers, byte vocabulary, tied."""
    folder, tokenizer = tmp_path_factory.mktemp("dense"), byte_tokenizer()
    transformers.utils.logging.disable_progress_bar()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256}
    tiny_llama(vocab_size=len(tokenizer), **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 short documents, deterministic."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [f"Document {i}: {i} squared is {i * i}, cubed {i**3}. " * (1 + i % 3) for i in range(200)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def exit_code(arguments: list[str]) -> int:
    """What the command line ends with in this process, in whatever way."""
    try:
        return train.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="session")
def main() -> Callable[[list[str]], int]:
    """The command line in this process; returns its exit code."""
    return exit_code


@dataclass
class Run:
    """What one start of the command line left behind."""

    code: int
    folder: Path

    @property
    def losses(self) -> dict[int, str]:
        """step -> train/loss as written, all digits."""
        with (self.folder / "metrics.csv").open() as file:
            return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file)}

    @property
    def weights(self) -> bytes:
        """Of all files."""
        return b"".join(path.read_bytes() for path in sorted((self.folder / "final").glob("*.safetensors")))

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary


class Zygote:
    """The process of zygote.py, which forks a child for every run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def run(
        self, arguments: list[str], log: Path, before: Callable[[], None] | None, ranks: int = 1
    ) -> list[int]:
        """Exit codes of the ranks, or minus the signals that ended them."""
        called = [before.__code__.co_filename, before.__name__] if before is not None else None
        request = {"arguments": arguments, "log": str(log), "before": called, "ranks": ranks}
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(f"{json.dumps(request)}\n")
        requests.flush()
        codes: list[int] = json.loads(answers.readline())
        if max(codes) > 0:
            sys.stderr.write(log.read_text()[-3000:])
        return codes

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts while the first tests run."""
    started = Zygote()
    yield started
    started.close()


@dataclass
class CommandLine:
    """`wrinklefree.train` with the overrides that make it tiny."""

    output_dir: Path
    common: list[str]
    zygote: Zygote
    stage_folders: dict[str, str] = field(
        default_factory=lambda: {
            "stage1_subln": "stage1",
            "stage1_5_calibrate": "stage1_5",
            "stage1_9_layerwise": "stage1_9",
            "stage2_pretrain": "stage2",
            "stage2_5_correct": "stage2_5",
            "awq": "awq",
        }
    )

    def arguments(self, training: str, *overrides: str) -> list[str]:
        return [
            f"training={training}",
            *self.common,
            *TINY.get(training, TINY_STEPS),
            f"output_dir={self.output_dir}",
            *overrides,
        ]

    def folder(self, training: str, experiment: str = "default") -> Path:
        return self.output_dir / experiment / self.stage_folders[training]

    def __call__(self, training: str, *overrides: str, experiment: str = "default") -> Run:
        arguments = self.arguments(training, f"experiment={experiment}", *overrides)
        return Run(exit_code(arguments), self.folder(training, experiment))

    def in_child(
        self, training: str, *overrides: str, experiment: str, before: Callable[[], None] | None = None
    ) -> Run:
        """Run in a child process after calling `before` (a function of a test module) there.

        The code is minus the signal if one ended it.
        """
        return self.in_ranks(training, *overrides, experiment=experiment, before=before, ranks=1)

    def in_ranks(
        self,
        training: str,
        *overrides: str,
        experiment: str,
        before: Callable[[], None] | None = None,
        ranks: int = 2,
    ) -> Run:
        """The same in children that train together, each a rank; the code is that of the first one that
        failed."""
        devices = [f"distributed.devices={ranks}"] if ranks > 1 else []
        arguments = self.arguments(training, f"experiment={experiment}", *devices, *overrides)
        codes = self.zygote.run(arguments, self.log(experiment), before, ranks)
        return Run(next(filter(None, codes), 0), self.folder(training, experiment))

    def log(self, experiment: str) -> Path:
        """What its children have written."""
        return self.output_dir / f"{experiment}.log"


def tiny_overrides(dense: Path, text: Path) -> list[str]:
    return [
        "model.source=path",
        f"model.name={dense}",
        f"data.sources=[{{kind: path, name: text, location: {text}}}]",
        "num_threads=1",
        "logging.progress_bar=none",
    ]


@pytest.fixture(scope="session")
def stage1_run(
    dense_dir: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory, zygote: Zygote
) -> Run:
    """A completed stage 1."""
    output = tmp_path_factory.mktemp("stage1")
    return CommandLine(output, tiny_overrides(dense_dir, text_file), zygote)("stage1_subln")


@pytest.fixture(scope="session")
def make_cli(dense_dir: Path, text_file: Path, stage1_run: Run, zygote: Zygote) -> Callable[..., CommandLine]:
    """make_cli(output_dir): runs start from the shared stage 1; alone=True: from their own."""

    def make(output_dir: Path, alone: bool = False) -> CommandLine:
        common = tiny_overrides(dense_dir, text_file)
        if not alone:
            common.append(f"training.start_from={stage1_run.folder / 'final'}")
        return CommandLine(output_dir, common, zygote)

    return make


@pytest.fixture
def cli(make_cli: Callable[..., CommandLine], tmp_path: Path) -> CommandLine:
    """Stages of an experiment that starts from nothing."""
    return make_cli(tmp_path, alone=True)


@pytest.fixture
def cli_from_stage1(make_cli: Callable[..., CommandLine], tmp_path: Path) -> CommandLine:
    """Every run starts from the shared stage 1."""
    return make_cli(tmp_path)
