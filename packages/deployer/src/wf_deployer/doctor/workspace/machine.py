"""The processor and the kernels that it runs, GPUs and their driver."""

from __future__ import annotations

from collections.abc import Iterator

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.children import output_of
from wf_deployer.doctor.tools import find_tool, tool_version
from wf_deployer.doctor.workspace.checkout import Workspace
from wf_formats.environment import cpu_name

_REBUILD = "`uv sync --reinstall-package ternary-kernels` (needs g++)"


def kernels(workspace: Workspace) -> Iterator[Finding]:
    """The C++ extension loads; which of its instruction sets runs, why no better one, and which formats
    were found to be faster here."""
    facts = workspace.facts["kernels"]
    source = "ternary_kernels.info()"
    if facts is None or "error" in facts:
        found = "not installed" if facts is None else facts["error"]
        yield Finding(Status.fail, found, "the native engine's kernels", _REBUILD, source)
        return
    better = [f"{name}: {why}" for name, why in facts["instruction_sets"].items() if why != "available"]
    found = ", ".join(
        [f"{facts['isa']} on {cpu_name()}", f"{facts['num_threads']} threads", *facts["formats"]]
    )
    if facts["isa"] == "scalar":
        fix = "run on a processor with AVX2 or NEON: plain C++ is many times slower"
        yield Finding(Status.warn, found, "; ".join(better), fix, source)
    else:
        yield Finding(Status.ok, f"{found} ({'; '.join(better)})" if better else found, source=source)


def gpu(workspace: Workspace) -> Iterator[Finding]:
    """NVIDIA GPUs; the driver has to know the CUDA release that PyTorch was built for."""
    path = find_tool("nvidia-smi")
    if path is None:
        yield Finding(Status.skip, "no NVIDIA driver (nvidia-smi)")
        return
    query = [path, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = output_of(query, cwd=workspace.root)
    cards = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not cards:
        found = (done.stdout + done.stderr).strip().splitlines()
        fix = "reboot, or install the driver again: nvidia-smi must list the GPU"
        yield Finding(Status.warn, found[0] if found else "no GPU", "a GPU", fix, "nvidia-smi")
        return
    torch = workspace.facts["torch"] or {}
    cuda = tool_version("nvidia-smi", r"CUDA Version *: *(\d+\.\d+)", option="-q")
    told = f"{'; '.join(cards)}; driver for CUDA {cuda or 'unknown'}"
    source = "nvidia-smi, torch.cuda"
    if torch.get("cuda") and not torch.get("sees_gpu"):
        fix = f"install a driver for CUDA {torch['cuda']}, or a PyTorch for the driver's CUDA"
        yield Finding(Status.fail, f"{told}: PyTorch sees no GPU", f"CUDA {torch['cuda']}", fix, source)
    elif torch.get("cuda"):
        yield Finding(Status.ok, f"{told}, PyTorch for CUDA {torch['cuda']}", source=source)
    else:
        fix = "nothing, if the CPU is meant; else a PyTorch with CUDA"
        yield Finding(Status.warn, f"{told}: PyTorch is for the CPU alone", "PyTorch with CUDA", fix, source)
