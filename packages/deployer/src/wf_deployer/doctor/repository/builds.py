"""PyTorch, transformers, and what is compiled against them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from wf_deployer.doctor.base import Finding, Status, listed
from wf_deployer.doctor.repository.declared import Declarations, Kind, Wanted
from wf_deployer.doctor.repository.known import (
    COMPILED_FOR_TORCH,
    CXX11_ABI_SINCE,
    HUB_OF_TRANSFORMERS,
    torchvision_of,
)
from wf_deployer.doctor.repository.ours import ours_of, torch_here
from wf_deployer.doctor.repository.reading import Repository
from wf_deployer.doctor.repository.risks import OWN_ENVIRONMENT
from wf_deployer.doctor.repository.satisfiable import is_satisfiable
from wf_deployer.doctor.tools import nvcc_version

_COMPILE = "pip install --no-build-isolation"


def torch(repository: Repository) -> Iterator[Finding]:
    """PyTorch's version, and that of torchvision and torchaudio beside it."""
    declarations = repository.declarations
    all_torch = _declared(declarations, "torch")
    for other in ("torchvision", "torchaudio", "triton"):
        beside = _declared(declarations, other)
        if beside and (all_torch or other == "torchvision"):
            yield _beside_torch(all_torch, beside[0])
    for wanted in all_torch:
        yield _old(repository, wanted)
    if not all_torch:
        yield Finding(Status.skip, "does not name PyTorch")


def _beside_torch(all_torch: list[Wanted], other: Wanted) -> Finding:
    pinned = next((wanted for wanted in all_torch if wanted.pin), None)
    source, part = str(other.file), other.name
    if pinned is None or other.pin is None:
        fix = "pin both, as their releases go together"
        told = f"{', '.join(dict.fromkeys(map(str, [*all_torch, other])))}: not both pinned"
        return Finding(Status.warn, told, "a pair of releases", fix, source, part)
    version = _version(pinned.pin or "")
    wanted = torchvision_of(version) if other.name == "torchvision" and version else None
    if wanted is not None and not other.pin.startswith(f"{wanted}."):
        return Finding(
            Status.fail,
            f"{pinned}, {other}",
            f"{other.name} {wanted}",
            f"pin {other.name} {wanted}",
            source,
            part,
        )
    return Finding(Status.ok, f"{pinned}, {other}", source=source, part=part)


def transformers(repository: Repository) -> Iterator[Finding]:
    """transformers goes with certain huggingface-hub and tokenizers, and accelerate follows both."""
    declarations = repository.declarations
    all_wanted = _declared(declarations, "transformers")
    for wanted in all_wanted:
        yield _old(repository, wanted)
        if wanted.pin is not None and (version := _version(wanted.pin)):
            hub = next(
                text for bounds, text in HUB_OF_TRANSFORMERS if bounds.contains(version, prereleases=True)
            )
            named = _declared(declarations, "huggingface-hub")
            others = [
                w
                for name in ("accelerate", "tokenizers", "peft", "datasets")
                for w in _declared(declarations, name)
            ]
            beside = f", beside {listed(map(str, others))}" if others else ""
            hub_told = f"{named[0]} is declared" if named else "huggingface-hub is not declared"
            found = f"{wanted} needs {hub}: {hub_told}{beside}"
            fix = "move transformers, accelerate, tokenizers and huggingface-hub together, with a lock"
            is_bound = bool(named) and named[0].specifier
            status = (
                Status.ok
                if is_bound and is_satisfiable([SpecifierSet(hub[15:]), named[0].specifier])
                else Status.warn
            )
            yield Finding(status, found, hub, fix, str(wanted.file), "huggingface-hub")
    if not all_wanted:
        yield Finding(Status.skip, "does not name transformers")


def _old(repository: Repository, wanted: Wanted) -> Finding:
    """A pin against what we need at least, and its absence."""
    least = ours_of(repository.ours, wanted.name)
    source, part = str(wanted.file), f"{wanted.name}-{wanted.file}"
    expected = f"{wanted.name}{least}" if least else wanted.name
    if wanted.is_unpinned:
        fix = "bound it to the releases that were tested"
        return Finding(Status.warn, f"{wanted.name} without a bound", expected, fix, source, part)
    if least and not is_satisfiable([least, wanted.specifier]):
        fix = f"{OWN_ENVIRONMENT}: it holds an old {wanted.name}"
        return Finding(Status.warn, f"{wanted} is older than we need", expected, fix, source, part)
    return Finding(Status.ok, str(wanted), expected, source=source, part=part)


def compiled(repository: Repository) -> Iterator[Finding]:
    """Packages whose binaries are made for one PyTorch, CUDA release and C++ ABI."""
    own = repository.declarations.names
    named = [w for w in repository.declarations.wanted if w.name in COMPILED_FOR_TORCH - own]
    by_name = {wanted.name: wanted for wanted in reversed(named)}
    for name, wanted in by_name.items():
        where = f"{wanted.file}:{wanted.part}" if wanted.kind is Kind.documented else str(wanted.file)
        theirs = _pinned_torch(repository.declarations)
        here = torch_here(repository.ours)
        found = f"{wanted} ({where}) is compiled against one torch, CUDA and C++ ABI; {theirs}, {here}"
        fix = f"a wheel for exactly this python, torch, cu and cxx11abi; or after torch `{_COMPILE} {name}`"
        yield Finding(Status.warn, found, "a build for the torch beside it", fix, where, name)
    if not by_name:
        yield Finding(Status.ok, "none that is compiled against PyTorch")


def extensions(repository: Repository) -> Iterator[Finding]:
    """C++ and CUDA code that is compiled when the repository is installed."""
    declarations = repository.declarations
    for file in dict.fromkeys(extension.file for extension in declarations.extensions):
        own = [extension for extension in declarations.extensions if extension.file == file]
        is_cuda = any(extension.num_cuda or extension.kind == "CUDAExtension" for extension in own)
        num_sources, num_cuda = sum(e.num_sources for e in own), sum(e.num_cuda for e in own)
        what = (
            f"{', '.join(dict.fromkeys(e.kind for e in own))} of {num_sources} sources ({num_cuda} of CUDA)"
        )
        if file not in declarations.imports_torch:
            yield Finding(
                Status.warn,
                f"{what}, compiled when installed",
                "a wheel",
                "g++ and its headers",
                str(file),
                str(file),
            )
            continue
        yield from _against_torch(repository, file, what, is_cuda)
    if not declarations.extensions:
        yield Finding(Status.ok, "nothing to compile")


def _against_torch(repository: Repository, file: Path, what: str, is_cuda: bool) -> Iterator[Finding]:
    theirs, here = _pinned_torch(repository.declarations), torch_here(repository.ours)
    found = f"{what}, tied to the torch, CUDA and C++ ABI that it is compiled with; {theirs}, {here}"
    compile_it = f"`{_COMPILE} {_folder(file)}`"
    fix = f"compile it where it runs, again after each change of torch: {compile_it}"
    yield Finding(Status.warn, found, "one torch for building and running", fix, str(file), f"abi-{file}")
    names = [
        w.name
        for w in repository.declarations.wanted
        if w.kind is Kind.build and w.file.parent == file.parent
    ]
    if "torch" not in names:
        found = (
            "its build imports torch, build-system.requires beside it does not name it: isolated builds fail"
        )
        fix = f"{compile_it} with torch and setuptools installed, or a pyproject.toml that names torch"
        yield Finding(
            Status.fail, found, "torch in build-system.requires", fix, str(file), f"isolation-{file}"
        )
    if is_cuda:
        yield _compiler(repository, file)


def _compiler(repository: Repository, file: Path) -> Finding:
    nvcc, part = nvcc_version(), f"nvcc-{file}"
    cuda = (repository.ours.facts["torch"] or {}).get("cuda") if repository.ours.is_own else None
    wanted = f"CUDA {cuda} (torch.version.cuda here)" if cuda else "the CUDA release of torch"
    if nvcc is None:
        return Finding(Status.fail, "no nvcc", f"nvcc of {wanted}", "install that CUDA toolkit", "PATH", part)
    if cuda and nvcc.split(".")[0] != str(cuda).split(".")[0]:
        return Finding(
            Status.fail, f"nvcc {nvcc}", f"nvcc of {wanted}", "install that CUDA toolkit", "nvcc", part
        )
    found = f"nvcc {nvcc}; it must be of the major release of torch.version.cuda, here {cuda or 'unknown'}"
    return Finding(Status.ok, found, f"nvcc of {wanted}", source="nvcc", part=part)


def _folder(file: Path) -> str:
    return "." if file.parent == Path() else f"./{file.parent}"


def _pinned_torch(declarations: Declarations) -> str:
    pin = next((wanted.pin for wanted in _declared(declarations, "torch") if wanted.pin), None)
    version = _version(pin) if pin else None
    if version is None:
        return "no torch is pinned"
    abi = "C++11 ABI" if version >= CXX11_ABI_SINCE else "mostly the ABI of before C++11"
    return f"torch {version} is pinned ({abi})"


def _declared(declarations: Declarations, name: str) -> list[Wanted]:
    return declarations.of(name, Kind.needed, Kind.optional)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
