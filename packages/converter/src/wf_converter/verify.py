"""Proves an exported GGUF file or Hugging Face folder against the checkpoint it came from.

Three independent checks:

weights   every matrix is read back from the export and compared with the checkpoint's codes and
          scales: codes equal, scales within fp16 rounding (2**-11; exact where stored as fp32). Finds a
          scale off by 1 % in any single matrix, also where the network cannot show it (a scale
          before SubLN cancels). Low-rank corrections are equal to the bit.
the rest  the configuration is the checkpoint's, and so are norms, biases, embeddings and head, to the bit
          of the type that the export stores them in (unchanged.py).
scores    the export runs in its own runtime (llama.cpp, transformers; a block-diffusion model in ours) on
          a text, and its per-token log-probs are compared with PyTorch on the checkpoint. For GGUF the
          judged reference makes the runtime's activation roundings (reference.py); the difference to the
          model as trained is reported beside it, since that is what users get.

What remains between two correct runtimes is the order of float sums: it flips an int8 rounding here
and there, each flip moves later activations, and over 30 layers that adds up. Measured as mean
|difference| of log-probs: 2 layers 0.000004 to 0.012 nats; SmolLM2-135M converted but not trained (a
chaotic model) 0.06 to 0.18, which hides a scale off by 1 %. A least-squares fit of the differences
to the log-probs' sensitivity to the scales takes the noise out (192 tokens, same model):

    all scales times   1.00              1.01              0.99
    tensor, SubLN      +0.21 +- 0.05 %   +1.8 +- 0.2 %     -0.8 +- 0.1 %
    group64            -0.02 +- 0.03 %   +1.01 +- 0.06 %   -1.14 +- 0.07 %

So the verdict asks for: weights as above, a fitted scale error of at most MAX_SCALE_ERROR that the
tokens determine to MAX_STANDARD_ERROR, and a mean |difference| within a tolerance that honest noise
keeps and a structural mistake (rotation, norms, a missing tensor: nats) does not. A model that knows little
of the text is more chaotic still: two-bit complex weights after 200 steps of distillation differ by 0.25 nats
from the engine on web pages, and by 0.39 on Python's documentation, where the last bits of the embeddings
alone move PyTorch by 0.25 to 0.29. So the default tolerance grows with what those do (`own_noise`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wf_converter.checkpoint import ConvertedCheckpoint, open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.proof_limits import (
    DEFAULT_TOLERANCE,
    MAX_SCALE_ERROR,
    MAX_STANDARD_ERROR,
    NOISE_FACTOR,
    UNKNOWN_TEXT,
    check_request,
)
from wf_converter.readback import GgufWeights, WeightCheck, check_weights, wrong_corrections
from wf_converter.reference import EXACT, emulate, own_noise, reference_model, scale_sensitivity
from wf_converter.runtimes import run_export, types_of
from wf_converter.scores import Difference, ScaleEstimate, torch_scores
from wf_converter.unchanged import check_settings, wrong_tensors
from wf_formats.digests import model_sha256
from wf_formats.errors import LoadError
from wf_formats.gguf import GgufError
from wf_formats.gguf.blocks import FP16_RELATIVE_ERROR
from wf_formats.models import ModelFile, open_model
from wf_formats.models.gguf_model import GgufModel


@dataclass(frozen=True)
class Verification:
    """Everything `verify` found; `passed` is the verdict."""

    export: str
    export_sha256: str
    """`wf_formats.digests.model_sha256` of it, by which a report is told from that of another model."""
    checkpoint_sha256: str
    runtime: str
    tokens: int
    tolerance: float
    """Mean |difference| of log-probs that passes, nats."""
    weights: WeightCheck
    wrong_corrections: list[str]
    """Matrices whose low-rank correction is not the checkpoint's, to the bit."""
    wrong_tensors: list[str]
    """Norms, biases, embeddings, heads that are not the checkpoint's, to the bit of the export's type."""
    judged: Difference
    """Export against the reference with the runtime's own roundings."""
    scales: ScaleEstimate
    """Common error of the scales as the log-probs tell it."""
    as_trained: Difference
    """Export against the checkpoint as trained."""
    checkpoint_perplexity: float | None
    """None, as the next, for a block-diffusion model, which has none."""
    export_perplexity: float | None

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """Why it did not pass, in words."""
        found = []
        if self.weights.num_wrong_codes:
            found.append(f"{self.weights.num_wrong_codes} codes differ, worst in {self.weights.worst}")
        if not self.weights.max_scale_error <= FP16_RELATIVE_ERROR:
            error = self.weights.max_scale_error
            found.append(f"scale of {self.weights.worst} is off by {error:.2%}")
        if wrong := self.wrong_corrections:
            found.append(f"the low-rank corrections of {len(wrong)} matrices differ, the first of {wrong[0]}")
        if wrong := self.wrong_tensors:
            found.append(f"tensors that are not quantized differ ({len(wrong)}), the first is {wrong[0]}")
        return found + self._score_problems()

    def _score_problems(self) -> list[str]:
        found = []
        error, standard_error = self.scales.relative_error, self.scales.standard_error
        if not standard_error <= MAX_STANDARD_ERROR:
            found.append(f"{self.tokens} tokens tell the scales to {standard_error:.2%} only; use more")
        if not abs(error) <= MAX_SCALE_ERROR:
            found.append(f"log-probs say that scales are off by {error:+.2%} +- {standard_error:.2%}")
        if not self.judged.mean_abs_delta <= self.tolerance:
            delta = self.judged.mean_abs_delta
            found.append(f"log-probs differ by {delta:.4f} nats on average, allowed {self.tolerance:.3g}")
        perplexity = self.checkpoint_perplexity
        if found and perplexity is not None and perplexity > UNKNOWN_TEXT:
            hint = "give text of the kind that it was trained on (--text)"
            found.append(f"the model knows little of this text (perplexity {perplexity:.0f}): {hint}")
        return found

    def to_json(self) -> str:
        verdict = {"passed": self.passed, "problems": self.problems}
        return json.dumps(verdict | asdict(self), indent=2)


def verify(
    folder: Path | str,
    export: Path | str,
    ids: Sequence[int],
    tolerance: float | None = None,
    adapter: Path | None = None,
) -> Verification:
    """Compares an export with its checkpoint.

    Args:
        folder: the checkpoint.
        export: GGUF file or exported Hugging Face folder.
        ids: 64 to 4096 token ids of ordinary text.
        tolerance: mean |difference| of log-probs that passes, in nats; None: DEFAULT_TOLERANCE, or
            NOISE_FACTOR times the model's own noise, if that is more.
        adapter: GGUF file with the low-rank corrections, for a checkpoint that has some.

    Raises:
        ExportError: too few tokens or too many, the export cannot be read at all, or is not of this
            checkpoint.
    """
    check_request(len(ids), tolerance)
    checkpoint, export = open_checkpoint(folder), Path(export)
    opened = open_export(checkpoint, export, adapter)
    model = reference_model(folder)
    as_trained = judged = torch_scores(model, ids)
    run = run_export(checkpoint, export, opened, model, ids, adapter)
    weights = check_weights(checkpoint, run.weights)
    wrong: list[str] = []
    if isinstance(opened, GgufModel) and opened.adapter is not None:
        wrong = wrong_corrections(checkpoint, opened.adapter)
    rounds_scales = isinstance(run.weights, GgufWeights)
    emulate(model, run.types or types_of(model, EXACT), rounds_scales)
    if run.types is not None:
        judged = torch_scores(model, ids)
    difference = Difference.between(judged, run.scores)
    allowed = DEFAULT_TOLERANCE if tolerance is None else tolerance
    if tolerance is None and difference.mean_abs_delta > allowed:
        allowed = max(allowed, NOISE_FACTOR * own_noise(model, ids, judged))
    is_autoregressive = checkpoint.diffusion is None
    return Verification(
        export=str(export),
        export_sha256=model_sha256(export),
        checkpoint_sha256=checkpoint.fingerprint,
        runtime=run.runtime,
        tokens=len(ids),
        tolerance=allowed,
        weights=weights,
        wrong_corrections=wrong,
        wrong_tensors=wrong_tensors(checkpoint, opened),
        judged=difference,
        scales=ScaleEstimate.fit(judged, run.scores, scale_sensitivity(model, ids)),
        as_trained=Difference.between(as_trained, run.scores),
        checkpoint_perplexity=as_trained.perplexity if is_autoregressive else None,
        export_perplexity=run.scores.perplexity if is_autoregressive else None,
    )


def open_export(checkpoint: ConvertedCheckpoint, export: Path, adapter: Path | None) -> ModelFile:
    """Raises: ExportError for what is damaged or incomplete, no export, or one of another model."""
    for path in (export, *([] if adapter is None else [adapter])):
        if not path.exists():
            raise ExportError(f"there is no file or folder {path}; check the path")
    try:
        model = open_model(export, adapter=adapter)
    except (LoadError, GgufError) as error:
        raise ExportError(f"no export that could be proved: {error}") from error
    check_settings(checkpoint, export, model)
    if bool(checkpoint.low_rank) != (adapter is not None):
        raise ExportError(
            f"{export} is no export of {checkpoint.folder}: the rank of its low-rank corrections is "
            f"{checkpoint.low_rank}, and the export has {'no' if adapter is None else 'an'} adapter"
        )
    return model
