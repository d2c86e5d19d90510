"""Small models of a mixture each: what loss of the probe does it lead to?

A random Llama of two blocks with a small vocabulary (small_vocabulary.py) is trained by the trainer itself,
in full precision (stage 2, model.scheme=none), for a few steps on the mixture; then its next-token loss on
the probe is measured. All start from the same weights; a further order of the data is another seed. So a
difference between two mixtures is one of the data, but of the beginning of a training: what pays late does
not show.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import bitnet_arch
from data_handler import SourceConfig, token_block
from data_handler.corpus.domains import Domain, Reading
from data_handler.small_tokenizer import small_tokenizer
from wf_formats.overrides import override
from wrinklefree import train
from wrinklefree.data_choice.entries import EXACT_DIGITS, as_source, as_value
from wrinklefree.data_choice.small_vocabulary import NUM_TOKENS, samples, tokens_per_token
from wrinklefree.errors import RunError
from wrinklefree.held_out import mean_loss

_LENGTH_TOKENS, _SEQUENCES = 128, 8
_RATE = 3e-3
_PROBE_TOKENS = 16_384
_SIZES = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2 * _LENGTH_TOKENS,
    "tie_word_embeddings": True,
}
STEP_TOKENS = _LENGTH_TOKENS * _SEQUENCES


class Proxies:
    """Trains in a folder of its own, which holds nothing that is needed afterwards.

    Args:
        folder: for the models; what an interrupted start left there is removed.
        tokenizer: of transformers; weights are shares of its tokens.
        steps: of each training.

    Raises:
        DataError: the probe holds too little text; RunError: the trainer failed, with its last line.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        sources: Sequence[Domain],
        probe: Domain,
        reading: Reading,
        steps: int,
    ) -> None:
        self._folder, self._sources, self._reading, self._steps = folder, sources, reading, steps
        texts = samples(sources, reading)
        small = small_tokenizer((text for part in texts for text in part), NUM_TOKENS, bos="</s>")
        self._per_token = {
            domain.name: tokens_per_token(small, tokenizer, part)
            for domain, part in zip(sources, texts, strict=True)
        }
        self._probe_ids = _probe_ids(probe, reading, small)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._dense, self._log = folder / "dense", folder / "trainer.log"
        _write_dense(self._dense, small)
        self._train("1", "start", 0, dict.fromkeys(self._per_token, 1.0), _STAGE_1)

    @property
    def num_probe_tokens(self) -> int:
        return self._probe_ids.numel()

    def loss(self, weights: Mapping[str, float], seed: int) -> float:
        """Nats a token of the probe after a training on the mixture, the data in the order of `seed`.

        Raises:
            RunError: the training failed, or its loss is no number.
        """
        start = self._folder / "start" / "stage1" / "final"
        self._train(
            "2", "proxy", seed, weights, [override("training.start_from", str(start)), *self._stage_2()]
        )
        run = self._folder / "proxy"
        model = bitnet_arch.load_checkpoint(run / "stage2" / "final", dtype=torch.float32).model.eval()
        loss = mean_loss(model, self._probe_ids)
        shutil.rmtree(run)
        if loss is None or not math.isfinite(loss):
            raise RunError(
                f"a small model of the mixture {dict(weights)} has the loss {loss}: report its data"
            )
        return loss

    def _stage_2(self) -> list[str]:
        return [
            f"training.max_steps={self._steps}",
            f"training.sequence_length_tokens={_LENGTH_TOKENS}",
            f"training.batch_size={_SEQUENCES}",
            f"training.learning_rate={_RATE}",
            "training.schedule.warmup=0.1",
            "training.checkpoint.every_steps=0",
            "training.accept_from=[stage1]",
            "distributed.accelerator=cpu",
            "logging.csv=false",
        ]

    def _train(
        self, stage: str, experiment: str, seed: int, weights: Mapping[str, float], overrides: Sequence[str]
    ) -> None:
        shares = {name: weight * self._per_token[name] for name, weight in weights.items()}
        sources = [self._source(domain, shares[domain.name]) for domain in self._sources]
        arguments = [
            "-s",
            stage,
            f"experiment={experiment}",
            override("output_dir", str(self._folder)),
            f"seed={seed}",
            "model.source=path",
            override("model.name", str(self._dense)),
            "model.scheme=none",
            "model.allow_unservable=true",
            as_value(sources),
            "logging.progress_bar=none",
            *overrides,
        ]
        with _told_to(self._log) as log:
            code = _exit_code(arguments, log)
        if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise KeyboardInterrupt
        if code != 0:
            raise RunError(f"the training of a small model failed: {_last_line(self._log)}")

    def _source(self, domain: Domain, weight: float) -> str:
        reading = self._reading
        return as_source(
            domain.name, domain.files, weight, reading.text_column, reading.text_unit, EXACT_DIGITS
        )


_STAGE_1 = (
    "training.fit.tokens=512",
    f"training.fit.sequence_length_tokens={_LENGTH_TOKENS}",
    "training.fit.evaluation_tokens=0",
)


def _write_dense(folder: Path, tokenizer: Any) -> None:
    """A random model of `_SIZES`, always the same for a tokenizer."""
    torch.manual_seed(0)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), **_SIZES, **special)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _probe_ids(probe: Domain, reading: Reading, tokenizer: Any) -> torch.Tensor:
    """int64 [sequences, tokens]: the beginning of the probe."""
    source = SourceConfig(
        "path",  # type: ignore[arg-type]  # becomes the member
        probe.name,
        [str(file) for file in probe.files],
        text_column=reading.text_column,
        text_unit=reading.text_unit,
        repeat=False,
    )
    return token_block([source], tokenizer, _PROBE_TOKENS, _LENGTH_TOKENS, least_tokens=_LENGTH_TOKENS)


def _exit_code(arguments: list[str], log: Any) -> int:
    """The trainer's, in this process; its summary goes to the log."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            return train.main(arguments)
        except SystemExit as end:
            return int(end.code or 0)


@contextlib.contextmanager
def _told_to(path: Path) -> Iterator[Any]:
    """What is logged meanwhile goes to a file instead of the terminal."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with path.open("a") as log:
        handler = logging.StreamHandler(log)
        root.handlers, root.level = [handler], logging.INFO
        try:
            yield log
        finally:
            root.handlers, root.level = before, level


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"
