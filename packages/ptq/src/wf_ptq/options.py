"""What the methods of this package can be told. No PyTorch here: the trainer's schema reads the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rates:
    """Peak steps of Adam: of latent weights and scales as shares of the matrix's mean scale, of
    vectors (gains, biases) and embeddings (the output head included) as shares of their mean magnitude.
    0: they stay as they are."""

    latent: float = 0.0
    scale: float = 0.007
    vector: float = 0.005
    embedding: float = 0.0


@dataclass(frozen=True)
class SolveOptions:
    """shrinkage: what of H off its diagonal is taken away, as a share. damping: added to the diagonal, as a
    share of its mean. num_sweeps: of coordinate descent."""

    shrinkage: float = 0.1
    damping: float = 0.003
    num_sweeps: int = 4


@dataclass(frozen=True)
class RefineOptions:
    """num_steps of batch_size sequences each; 0 leaves the solved block as it is."""

    num_steps: int = 128
    batch_size: int = 1
    rates: Rates = field(default_factory=lambda: Rates(latent=0.01))


@dataclass(frozen=True)
class BlockOptions:
    """num_moment_sequences: how many sequences of the stream the second moments are taken from."""

    num_moment_sequences: int = 64
    solve: SolveOptions = field(default_factory=SolveOptions)
    refine: RefineOptions = field(default_factory=RefineOptions)


@dataclass(frozen=True)
class DistilOptions:
    """num_steps of batch_size sequences; logit_tokens: positions of a batch that are compared."""

    num_steps: int = 400
    batch_size: int = 1
    logit_tokens: int = 512
    rates: Rates = field(default_factory=Rates)


@dataclass(frozen=True)
class LowRankOptions:
    """rank of every linear's correction. damping: added to the diagonal of the inputs' second moments, as a
    share of its mean."""

    rank: int = 16
    damping: float = 0.01


@dataclass(frozen=True)
class AwqOptions:
    """num_exponents: 0, 1 / n, ... (n - 1) / n are tried for the scales of each input. num_search_sequences:
    of those that the moments are taken from, how many the whole attention and feed-forward part are tried on.
    num_clips: ranges of a group that are tried, the whole one, then each a twentieth less; 1: none is cut."""

    num_exponents: int = 20
    num_search_sequences: int = 8
    num_clips: int = 10
