"""Programs and optional packages: which feature needs what, and the command that gets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packaging.version import Version

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.tools import find_tool, nvcc_version, tool_version
from wf_deployer.doctor.workspace.checkout import Workspace

OLDEST_GCC = Version("11")
OLDEST_CLANG = Version("12")


@dataclass(frozen=True)
class Tool:
    name: str
    feature: str
    fix: str


@dataclass(frozen=True)
class Package:
    """Attributes: distribution is what has to be installed, `fix` installs it."""

    distribution: str
    feature: str
    fix: str


TOOLS = (
    Tool("uv", "environments", "install uv (its documentation has a line for each system)"),
    Tool("git", "commits in reports, the lock's filter", "`apt-get install git`"),
    Tool("rsync", "`gcd`", "`apt-get install rsync`"),
    Tool("ssh", "`gcd` and machines of others", "`apt-get install openssh-client`"),
)
_EXTRA = "`uv sync --no-default-groups --package {} --extra {}` in an environment of its own"
PACKAGES = (
    Package("xllamacpp", "the engine llamacpp, proofs and comparisons of speed", "`uv sync`"),
    Package("sglang", "serving with SGLang", _EXTRA.format("wrinklefree-inference", "sglang")),
    Package("vllm", "serving with vLLM", _EXTRA.format("wrinklefree-inference", "vllm")),
)


def programs(workspace: Workspace) -> Iterator[Finding]:
    """Programs that features start."""
    for tool in TOOLS:
        path = find_tool(tool.name)
        if path is None:
            yield Finding(Status.warn, "not on the PATH", tool.feature, tool.fix, "PATH", tool.name)
        else:
            version = tool_version(tool.name, option="-V" if tool.name == "ssh" else "--version")
            yield Finding(Status.ok, f"{version or 'there'}: {tool.feature}", source=path, part=tool.name)


def compiler(workspace: Workspace) -> Iterator[Finding]:
    """The C++ compiler that `uv sync` builds packages/kernels with."""
    feature = "GCC 11 or Clang 12, for changes of packages/kernels"
    for name, oldest in (("g++", OLDEST_GCC), ("clang++", OLDEST_CLANG)):
        version = tool_version(name)
        if version is not None and Version(version) >= oldest:
            yield Finding(Status.ok, f"{name} {version}", source=find_tool(name) or "")
            return
    found = f"g++ {tool_version('g++')}" if find_tool("g++") else "no g++ or clang++ on the PATH"
    yield Finding(Status.warn, found, feature, "`apt-get install g++`", "PATH")


def cuda_compiler(workspace: Workspace) -> Iterator[Finding]:
    """PyTorch refuses to compile extensions with an nvcc of another major release."""
    nvcc = nvcc_version()
    if nvcc is None:
        yield Finding(Status.skip, "no nvcc: nothing here needs it; CUDA extensions of others do")
        return
    torch = workspace.facts["torch"]
    cuda = (torch or {}).get("cuda")
    if cuda is None:
        yield Finding(Status.skip, f"nvcc {nvcc}; no PyTorch built for CUDA", source=find_tool("nvcc") or "")
    elif nvcc.split(".")[0] == str(cuda).split(".")[0]:
        found = f"nvcc {nvcc}, PyTorch for CUDA {cuda}"
        yield Finding(Status.ok, found, "the same major release", source="nvcc, torch.version.cuda")
    else:
        fix = f"install the CUDA toolkit {cuda} to compile CUDA extensions"
        found = f"nvcc {nvcc}, PyTorch for CUDA {cuda}"
        yield Finding(Status.warn, found, "the same major release", fix, "nvcc, torch.version.cuda")


def features(workspace: Workspace) -> Iterator[Finding]:
    """Packages that only some features need."""
    for package in PACKAGES:
        version = workspace.environment.version(package.distribution)
        if version is None:
            found = f"not installed: {package.feature}"
            yield Finding(Status.skip, found, "", package.fix, "package metadata", package.distribution)
        else:
            found = f"{version}: {package.feature}"
            yield Finding(Status.ok, found, source="package metadata", part=package.distribution)
