from collections.abc import Callable
from typing import Any

import pytest
import torch

from wrinklefree.teachers.local import LocalTeacher


@pytest.mark.parametrize(("device", "by_kernels"), [("cpu", False), ("meta", True)])
def test_a_teacher_computes_by_kernels_but_on_a_cpu(
    device: str, by_kernels: bool, tiny_llama: Callable[[], Any]
) -> None:
    """On a CPU its answers stay transformers' own, to the bit; "meta" stands for a GPU here."""
    teacher = LocalTeacher(tiny_llama())
    classes = [type(module) for module in teacher.model.modules()]
    teacher.to(torch.device(device))
    assert all(p.device.type == device for p in teacher.model.parameters())
    changed = {
        type(module).__name__
        for module, before in zip(teacher.model.modules(), classes, strict=True)
        if type(module) is not before
    }
    assert changed == ({"LlamaRMSNorm", "LlamaMLP", "LlamaAttention"} if by_kernels else set())
