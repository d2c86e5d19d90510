"""Packages that only fit certain others: by what they say themselves, and by how they were compiled."""

from __future__ import annotations

from collections.abc import Iterator

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.wheels import Build, build_of
from wf_deployer.doctor.workspace.checkout import Workspace

PAIRS = (
    ("torch", "triton"),
    ("torchvision", "torch"),
    ("torchaudio", "torch"),
    ("transformers", "huggingface-hub"),
    ("transformers", "tokenizers"),
    ("vllm", "torch"),
    ("vllm", "compressed-tensors"),
    ("sglang", "torch"),
    ("sglang", "transformers"),
)
"""The first pins the second."""
COMPILED = ("flash-attn", "xformers", "torch-scatter", "causal-conv1d", "mamba-ssm")
"""Wheels with C++ of one PyTorch, CUDA and ABI each."""
SYNC = "`uv sync`"


def pairs(workspace: Workspace) -> Iterator[Finding]:
    """`requires_dist` of the installed package against the installed version of the other."""
    environment = workspace.environment
    for name, other in PAIRS:
        version, found = environment.version(name), environment.version(other)
        part = f"{name}-{other}"
        wanted = environment.requirements(name, other)
        if version is None or not wanted:
            continue
        specifier = ", ".join(str(requirement.specifier) for requirement in wanted)
        fits = found is not None and all(r.specifier.contains(found, prereleases=True) for r in wanted)
        text = f"{name} {version} wants {other} {specifier}, installed {found or 'none'}"
        status = Status.ok if fits else Status.fail
        yield Finding(status, text, specifier, "" if fits else SYNC, f"{name}: requires_dist", part)
    if not any(environment.version(name) for name, _other in PAIRS):
        yield Finding(Status.skip, "neither PyTorch nor transformers is installed")


def torch_build(workspace: Workspace) -> Iterator[Finding]:
    """PyTorch loads, and is the build that its metadata names."""
    torch = workspace.facts["torch"]
    if torch is None:
        yield Finding(Status.fail, "PyTorch is not installed", "torch", SYNC, "import torch")
    elif "error" in torch:
        yield Finding(
            Status.fail,
            torch["error"],
            "PyTorch loads",
            "`uv sync --reinstall-package torch`",
            "import torch",
        )
    else:
        abi = "C++11 ABI" if torch["cxx11_abi"] else "ABI of before C++11"
        found = f"PyTorch {torch['version']}, {_cuda(torch['cuda'])}, {abi}"
        yield Finding(Status.ok, found, source="torch.version, torch.compiled_with_cxx11_abi()")


def compiled(workspace: Workspace) -> Iterator[Finding]:
    """Wheels that were compiled against a PyTorch: Python, PyTorch, CUDA and C++ ABI must be ours."""
    found = [name for name in COMPILED if workspace.environment.version(name) is not None]
    if not found:
        yield Finding(Status.skip, f"none of {', '.join(COMPILED)} is installed")
        return
    torch = workspace.facts["torch"]
    if torch is None or "error" in torch:
        yield Finding(Status.fail, f"{', '.join(found)} without PyTorch", "torch", SYNC)
        return
    for name in found:
        build = build_of(workspace.environment.distributions[name])
        wrong = build.differences(workspace.environment.python_version, torch)
        source = f"{name}: WHEEL, version, direct_url.json"
        fix = f"compile it again: `uv pip install --no-build-isolation --no-binary {name} --reinstall {name}`"
        if wrong:
            yield Finding(
                Status.fail, f"{name} {build}: {'; '.join(wrong)}", _wanted(torch), fix, source, name
            )
        elif build == Build(build.python):
            told = f"{name} does not tell which PyTorch it was compiled for"
            yield Finding(
                Status.warn,
                told,
                _wanted(torch),
                f"try `python -c 'import {name.replace('-', '_')}'`, else {fix}",
                source,
                name,
            )
        else:
            yield Finding(Status.ok, f"{name} {build}", _wanted(torch), source=source, part=name)


def _cuda(release: str | None) -> str:
    return f"CUDA {release}" if release else "CPU only"


def _wanted(torch: dict[str, object]) -> str:
    return f"torch {torch['version']}, {_cuda(str(torch['cuda']) if torch['cuda'] else None)}"
