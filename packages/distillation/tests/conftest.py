"""A tiny dense Llama, a little text, its stage 1, and stages 3 and 4 in this process."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compose_once import composing_once

from wrinklefree import train
from wrinklefree.callbacks import StepLog
from wrinklefree_distillation import distill, dlm


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


@pytest.fixture(scope="session")
def make_dense(tiny_llama: Callable[..., Any]) -> Callable[..., Path]:
    """make_dense(folder, tokenizer, **sizes): a random Llama of 2 layers as a folder."""

    def make(folder: Path, tokenizer: Any, **sizes: int) -> Path:
        transformers.utils.logging.disable_progress_bar()
        sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256} | sizes
        tiny_llama(**{"vocab_size": len(tokenizer)} | sizes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def dense_dir(tmp_path_factory: pytest.TempPathFactory, make_dense: Any, byte_tokenizer: Any) -> Path:
    folder: Path = make_dense(tmp_path_factory.mktemp("dense"), byte_tokenizer())
    return folder


@pytest.fixture(scope="session")
def common(dense_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of every run."""
    text = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [f"Document {i}: {i} squared is {i * i}, cubed {i**3}. " * (1 + i % 3) for i in range(200)]
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return [
        "model.source=path",
        f"model.name={dense_dir}",
        f"data.sources=[{{kind: path, name: text, location: {text}}}]",
        "num_threads=1",
        "logging.progress_bar=none",
    ]


@dataclass
class Run:
    """What one start of stage 3 left behind."""

    code: int
    folder: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        """Of metrics.csv, without what depends on the clock."""
        with (self.folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        return [{k: v for k, v in row.items() if "_per_s" not in k and "wait" not in k} for row in rows]

    @property
    def weights(self) -> bytes:
        return (self.folder / "final" / "model.safetensors").read_bytes()


def _exit_code(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="session")
def make_stage1(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_stage1(*overrides): a finished checkpoint of stage 1."""

    def make(*overrides: str) -> Path:
        output = tmp_path_factory.mktemp("stage1")
        fit = [
            f"training.fit.{key}"
            for key in ("tokens=512", "sequence_length_tokens=32", "evaluation_tokens=0")
        ]
        assert _exit_code(train.main, ["-s", "1", *common, *fit, f"output_dir={output}", *overrides]) == 0
        return output / "default" / "stage1" / "final"

    return make


@pytest.fixture(scope="session")
def stage1(make_stage1: Callable[..., Path]) -> Path:
    """One that the runs below start from."""
    return make_stage1()


@pytest.fixture
def short_run(common: list[str], tmp_path: Path) -> Callable[..., Run]:
    """short_run(main, stage, *overrides, experiment="a"): six steps of an application of the trainer."""

    def start(main: Callable[[list[str]], int], stage: str, *overrides: str, experiment: str = "a") -> Run:
        arguments = [
            *common,
            f"output_dir={tmp_path}",
            f"experiment={experiment}",
            "distributed.accelerator=cpu",
            "training.sequence_length_tokens=32",
            "training.batch_size=2",
            "training.max_steps=6",
            *overrides,
        ]
        return Run(_exit_code(main, arguments), tmp_path / experiment / stage)

    return start


@pytest.fixture
def distil(short_run: Callable[..., Run], stage1: Path) -> Callable[..., Run]:
    """distil(*overrides, experiment="a"): stage 3 from the shared stage 1, with distill.py's entry point."""
    return partial(short_run, distill.main, "stage3", f"student.checkpoint_path={stage1}")


@pytest.fixture
def diffuse(short_run: Callable[..., Run], stage1: Path) -> Callable[..., Run]:
    """diffuse(*overrides, experiment="a"): stage 4 from the shared stage 1, with dlm.py's entry point."""
    blocks = ("training.block_size=8", f"training.start_from={stage1}")
    return partial(short_run, dlm.main, "stage4", *blocks)


@contextmanager
def _stopping_after(step: int) -> Iterator[None]:
    original = StepLog.on_step_end

    def patched(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        original(self, trainer, module, done)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepLog, "on_step_end", patched)
        yield


def _stopped_once(start: Callable[..., Run], *overrides: str, experiment: str) -> Run:
    with _stopping_after(3):
        assert start(*overrides, experiment=experiment).code == 128 + signal.SIGTERM
    return start(*overrides, experiment=experiment)


@pytest.fixture
def resumed(distil: Callable[..., Run]) -> Callable[..., Run]:
    """resumed(*overrides, experiment): a run of `distil` that SIGTERM ended after step 3 and then went on."""
    return partial(_stopped_once, distil)


@pytest.fixture
def diffuse_resumed(diffuse: Callable[..., Run]) -> Callable[..., Run]:
    """The same of `diffuse`."""
    return partial(_stopped_once, diffuse)
