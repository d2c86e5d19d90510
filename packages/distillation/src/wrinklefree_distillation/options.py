"""Choices that configurations name; no PyTorch."""

from enum import StrEnum


class Divergence(StrEnum):
    forward = "forward"
    reverse = "reverse"
    js = "js"
    skew_forward = "skew_forward"
    skew_reverse = "skew_reverse"
