"""What models are made of, by the Triton kernels: layers, bfloat16 norms, positions, and blocks as a whole.

test_gpu.py runs this file as it runs gpu_cases.py.
"""

from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from beside_pytorch import compare, norm_case, random, results
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from bitnet_arch import BitLinear, kernels, quantizer, set_precision, use_kernels
from bitnet_arch.kernels import kernel_for
from gpu_cases import DTYPES, SEEDS, equal
from ternary_kernels import gpu, training
from ternary_kernels.gpu.launch import DEVICE


@pytest.fixture
def by_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What asks for kernels gets these, under the interpreter too."""
    with monkeypatch.context() as patch:
        patch.setitem(kernels.MODULES, DEVICE, "ternary_kernels.gpu")
        kernels._module_of.cache_clear()
        yield
    kernels._module_of.cache_clear()


@pytest.mark.parametrize("size", [1, 65, 576])
def test_a_norm_with_a_bf16_weight_and_its_gradients(size: int) -> None:
    reference, make = norm_case(2, 9, size, dtype=torch.bfloat16)

    def rounded(seed: int) -> tuple[list[Tensor], Tensor]:
        inputs, upstream = make(seed)
        return [x.bfloat16() for x in inputs], upstream

    compare(lambda x, weight: gpu.rms_norm_bf16(x, weight, 1e-5)[0], reference, rounded, SEEDS, DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_with_a_bf16_weight_rounds_as_transformers_does(dtype: torch.dtype) -> None:
    """Twice; sums in another order change a value in thousands."""
    norm = LlamaRMSNorm(576, 1e-5).bfloat16()
    norm.weight.data.copy_(random(576, seed=1))
    x = random(9, 576, dtype=dtype)
    found, _ = gpu.rms_norm_bf16(x.to(DEVICE), norm.weight.detach().to(DEVICE), 1e-5)
    expected = norm(x).detach()
    tolerance = 1e-6 if dtype is torch.float32 else 2**-7
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=0)
    if dtype is torch.bfloat16:
        assert (found.cpu() != expected).float().mean() < 0.01


@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "own_angles", "dtype", "of_angles"),
    [
        *(
            (*sizes, DTYPES[0], DTYPES[0])
            for sizes in [(1, 1, 2, True), (3, 3, 30, True), (33, 1, 130, True)]
        ),
        *((9, 3, 64, False, *dtypes) for dtypes in [(DTYPES[0], DTYPES[0]), (DTYPES[1], DTYPES[0])]),
        *((5, 1, 30, True, DTYPES[1], of_angles) for of_angles in DTYPES),
    ],
)
def test_positions_are_turned_as_on_the_cpu(
    heads: int, key_heads: int, size: int, own_angles: bool, dtype: torch.dtype, of_angles: torch.dtype
) -> None:
    """To the bit, forward and backward, which is PyTorch's result there (test_training.py)."""
    angles = random(2, 2 if own_angles else 1, 3, size, seed=5).to(of_angles)
    q, k = (random(2, 3, n, size, dtype=dtype, seed=n) for n in (heads, key_heads))
    upstream = [random(2, n, 3, size, dtype=dtype, seed=9).transpose(1, 2) for n in (heads, key_heads)]

    def turned(module: ModuleType, device: str) -> tuple[Tensor, ...]:
        leaves = [x.to(device).requires_grad_() for x in (q, k)]
        found = module.turn(*leaves, *angles.to(device))
        return *found, *torch.autograd.grad(found, leaves, [grad.to(device) for grad in upstream])

    assert equal(turned(gpu, DEVICE), turned(training, "cpu"))


@pytest.mark.parametrize("scheme", ["tensor", "group64"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "int8"])
def test_a_layer_computes_with_them(precision: str, scheme: str, request: pytest.FixtureRequest) -> None:
    """As with the CPU's; what they do not have PyTorch computes."""
    torch.manual_seed(0)
    layer = BitLinear(128, 72, quantizer=quantizer(scheme))
    set_precision(torch.nn.ModuleList([layer]), precision)
    x, upstream = random(5, 128), random(5, 72, seed=1)
    theirs = results(layer, [x], upstream)
    request.getfixturevalue("by_triton")
    told = kernels.describe(torch.device(DEVICE))
    assert "Triton" in told
    lacking = "adamw, attention, code_gradients, compensate, descend, int8_columns, latent_codes"
    assert told.endswith(f"; PyTorch operators for {lacking}, latent_gradients")
    weight = layer.weight.detach().to(DEVICE)
    assert kernel_for("ternarize", torch.float32, weight) is gpu.ternarize
    assert kernel_for("latent_codes", torch.float32, weight) is None
    ours = results(layer.to(DEVICE), [x.to(DEVICE)], upstream.to(DEVICE))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.cpu(), reference, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(("dtype", "norm"), [(DTYPES[0], "rms_norm"), (DTYPES[1], "rms_norm_bf16")])
def test_a_model_answers_as_transformers_does(
    dtype: torch.dtype, norm: str, by_triton: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student's blocks, float32 under autocast, and a teacher's, bfloat16: each part by its kernel."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    model = LlamaForCausalLM(config).to(DEVICE, dtype)
    called: Counter[str] = Counter()
    for name in ("rms_norm", "rms_norm_bf16", "swiglu", "turn"):
        kernel = getattr(gpu, name)
        monkeypatch.setattr(
            gpu, name, lambda *args, name=name, kernel=kernel: (called.update([name]), kernel(*args))[1]
        )

    def answers() -> list[Tensor]:
        model.zero_grad()
        ids = torch.arange(6, device=DEVICE).view(2, 3)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype is torch.float32):
            logits = model(input_ids=ids).logits.float()
        logits.square().mean().backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    expected = answers()
    use_kernels(model)
    found = answers()
    assert called == {norm: 3, "swiglu": 1, "turn": 1}
    for mine, reference in zip(found, expected, strict=True):
        assert (mine - reference).norm() <= 0.02 * reference.norm()
