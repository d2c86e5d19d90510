"""All checks, in the order of the report. A further one is a function and a line here."""

from __future__ import annotations

from wf_deployer.doctor.base import Check
from wf_deployer.doctor.repository import builds, risks
from wf_deployer.doctor.repository.reading import Repository
from wf_deployer.doctor.workspace import (
    couplings,
    credentials,
    dependencies,
    extras,
    files,
    lock,
    machine,
    pages,
    storage,
    tools,
    versions,
)
from wf_deployer.doctor.workspace.checkout import Workspace

CHECKS = (
    Check("files.readable", Workspace, files.readable),
    Check("python.version", Workspace, files.python),
    Check("packages.member", Workspace, versions.members),
    Check("packages.checkout", Workspace, versions.checkout),
    Check("packages.requirements", Workspace, versions.broken),
    Check("packages.extras", Workspace, extras.conflicts),
    Check("packages.lock", Workspace, lock.completed),
    Check("packages.lock-filter", Workspace, lock.git_filter),
    Check("packages.unpinned", Workspace, dependencies.unpinned),
    Check("packages.imports", Workspace, dependencies.imports),
    Check("couplings.torch", Workspace, couplings.torch_build),
    Check("couplings.pair", Workspace, couplings.pairs),
    Check("couplings.compiled", Workspace, couplings.compiled),
    Check("tools.program", Workspace, tools.programs),
    Check("tools.compiler", Workspace, tools.compiler),
    Check("tools.nvcc", Workspace, tools.cuda_compiler),
    Check("features.package", Workspace, tools.features),
    Check("features.kernels", Workspace, machine.kernels),
    Check("machine.gpu", Workspace, machine.gpu),
    Check("machine.writable", Workspace, storage.writable),
    Check("machine.disk", Workspace, storage.free_disk),
    Check("credentials", Workspace, credentials.services),
    Check("pages.commands", Workspace, pages.commands),
    Check("files.read", Repository, risks.files),
    Check("python.bounds", Repository, risks.python),
    Check("requirements.unpinned", Repository, risks.unpinned),
    Check("requirements.conflict", Repository, risks.conflicts),
    Check("requirements.source", Repository, risks.sources),
    Check("requirements.ended", Repository, risks.ended),
    Check("couplings.torch", Repository, builds.torch),
    Check("couplings.transformers", Repository, builds.transformers),
    Check("couplings.compiled", Repository, builds.compiled),
    Check("build.extensions", Repository, builds.extensions),
)
