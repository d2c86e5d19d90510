"""Tiny converted models for the tests that choose ternary weights."""

import copy

import pytest
import torch

from bitnet_arch import ConversionConfig, convert, quantizer

SIZES = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
"""Weights five times the usual initial ones: blocks then do more than pass on their input."""
CALIBRATION_IDS = torch.randint(0, 512, (12, 48), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def block_sizes():
    return SIZES


@pytest.fixture(scope="module")
def make_pair(request):
    """(family, scheme) -> fresh converted model and the full-precision one that it was made from."""
    made = {}

    def make(family: str, scheme: str):
        if (family, scheme) not in made:
            teacher = request.getfixturevalue(family)(**SIZES).requires_grad_(False)
            for name, parameter in teacher.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
            config = ConversionConfig(quantizer(scheme))
            student = convert(copy.deepcopy(teacher), config, CALIBRATION_IDS)
            made[family, scheme] = student.requires_grad_(False), teacher
        student, teacher = made[family, scheme]
        return copy.deepcopy(student), teacher

    return make
