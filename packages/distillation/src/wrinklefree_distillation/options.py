"""Choices that configurations name; no PyTorch."""

from enum import StrEnum


class Divergence(StrEnum):
    forward = "forward"
    reverse = "reverse"
    js = "js"
    skew_forward = "skew_forward"
    skew_reverse = "skew_reverse"


class Balance(StrEnum):
    none = "none"
    """The weights are constants."""
    attention = "attention"
    """The attention term's weight follows the measured gradients."""
    logits = "logits"
    """The logits term's weight does."""
    both = "both"
    """Both do."""


class PromptApi(StrEnum):
    """How a server is asked for the log-probabilities of a prompt's own tokens."""

    prompt_logprobs = "prompt_logprobs"
    """vLLM's field: ids are numbers."""
    echo = "echo"
    """OpenAI's `echo` with `logprobs`: ids are told by the tokens' texts."""
