"""A checkout: versions side by side, lock, extras, couplings, imports, tools, machine, keys."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wf_deployer.doctor.base import Finding
from wf_deployer.doctor.children import ask
from wf_deployer.doctor.diagnosis import diagnose
from wf_deployer.doctor.environment import Environment, own_environment
from wf_deployer.doctor.registry import CHECKS
from wf_deployer.doctor.running import run
from wf_deployer.doctor.wheels import build_of
from wf_deployer.doctor.workspace import (
    couplings,
    credentials,
    dependencies,
    extras,
    files,
    lock,
    machine,
    storage,
    tools,
    versions,
)
from wf_deployer.doctor.workspace.checkout import Workspace
from wf_deployer.main import app

ROOT = """
[project]
name = "wrinklefree-workspace"
version = "0.1.0"
requires-python = ">=3.11,<3.13"
dependencies = ["alpha"]
[dependency-groups]
cpu = ["torch>=2.15"]
[tool.uv]
conflicts = [[{ package = "alpha", extra = "vllm" }, { package = "wrinklefree-workspace", group = "cpu" }]]
[tool.uv.workspace]
members = ["packages/alpha"]
"""
ALPHA = """
[project]
name = "alpha"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["numpy>=2.0", "torch>=2.11"]
[project.optional-dependencies]
vllm = ["vllm>=0.30"]
"""
LOCK = """
version = 1
[[package]]
name = "alpha"
version = "0.1.0"
dependencies = [
    { name = "numpy" },
    { name = "torch", version = "2.13.0", marker = "extra == 'extra-5-alpha-vllm'" },
    { name = "torch", version = "2.15.0", marker = "extra != 'extra-5-alpha-vllm'" },
]
[package.optional-dependencies]
vllm = [{ name = "vllm" }]
[[package]]
name = "numpy"
version = "2.4.6"
[[package]]
name = "torch"
version = "2.13.0"
[[package]]
name = "torch"
version = "2.15.0"
[[package]]
name = "vllm"
version = "0.32.0"
[[package]]
name = "wrinklefree-workspace"
version = "0.1.0"
dependencies = [{ name = "alpha" }]
[package.dev-dependencies]
cpu = [{ name = "torch", version = "2.15.0" }]
"""
GOOD = {"alpha": "0.1.0", "numpy": "2.4.6", "torch": "2.15.0+cu132"}
TORCH = {"version": "2.15.0+cu132", "cuda": "13.2", "cxx11_abi": True, "sees_gpu": True}


def install(site: Path, name: str, version: str, *lines: str, **files_of: str) -> Path:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    )
    for file, text in files_of.items():
        (folder / file.replace("_json", ".json")).write_text(text)
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., Workspace]:
    """Factory: installed versions and changes of the files -> a checkout with one member."""

    def make(
        installed: dict[str, str] | None = None, facts: dict[str, Any] | None = None, **texts: str
    ) -> Workspace:
        contents = {"root": ROOT, "alpha": ALPHA, "lock": LOCK} | texts
        member = tmp_path / "packages" / "alpha"
        (member / "src" / "alpha").mkdir(parents=True)
        (member / "src" / "alpha" / "__init__.py").touch()
        (tmp_path / "pyproject.toml").write_text(contents["root"])
        (member / "pyproject.toml").write_text(contents["alpha"])
        (tmp_path / "uv.lock").write_text(contents["lock"])
        site = tmp_path / "site"
        for name, version in (GOOD if installed is None else installed).items():
            install(site, name, version)
        environment = Environment(Path(sys.executable), "3.11.7", (str(site),), False)
        made = Workspace(tmp_path, environment, is_own=True)
        made._facts = {"torch": TORCH, "kernels": None} | (facts or {})
        return made

    return make


def said(findings: Any) -> dict[str, tuple[str, str]]:
    """part -> (status, what was found)."""
    return {finding.part: (str(finding.status), finding.found) for finding in findings}


def only(findings: Any) -> Finding:
    (finding,) = findings
    return finding


def test_versions_that_agree(workspace: Callable[..., Workspace]) -> None:
    assert said(versions.members(workspace())) == {
        "alpha": ("ok", "declared 0.1.0, locked 0.1.0, installed 0.1.0; its 3 requirements agree"),
        "wrinklefree-workspace": ("ok", "declared 0.1.0, locked 0.1.0; its 2 requirements agree"),
    }


@pytest.mark.parametrize(
    ("installed", "texts", "status", "found"),
    [
        ({"numpy": "1.9"}, {}, "fail", "numpy: declared >=2.0, installed 1.9"),
        ({"numpy": "2.4.5"}, {}, "warn", "numpy: locked 2.4.6, installed 2.4.5"),
        ({"numpy": None}, {}, "fail", "numpy 2.4.6 is not installed"),
        ({"alpha": "0.0.9"}, {}, "fail", "alpha: declared 0.1.0, installed 0.0.9"),
        ({"alpha": None}, {}, "fail", "alpha 0.1.0 is not installed"),
        (
            {},
            {"alpha": ALPHA.replace("numpy>=2.0", "numpy>=2.5")},
            "fail",
            "numpy: declared >=2.5, locked 2.4.6",
        ),
        (
            {},
            {"alpha": ALPHA.replace('"numpy>', '"scipy>=1", "numpy>')},
            "fail",
            "scipy is declared and not in uv.lock",
        ),
        ({}, {"alpha": ALPHA.replace('"0.1.0"', '"0.2.0"')}, "fail", "alpha: declared 0.2.0, locked 0.1.0"),
    ],
)
def test_versions_that_differ(
    installed: dict[str, str | None],
    texts: dict[str, str],
    status: str,
    found: str,
    workspace: Callable[..., Workspace],
) -> None:
    present = {name: version for name, version in (GOOD | installed).items() if version is not None}
    findings = {finding.part: finding for finding in versions.members(workspace(present, **texts))}
    assert str(findings["alpha"].status) == status
    assert found in findings["alpha"].found
    assert "uv sync" in findings["alpha"].fix


def test_the_extra_that_is_installed_chooses_the_locked_version(workspace: Callable[..., Workspace]) -> None:
    of_extra = workspace({"alpha": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0", "vllm": "0.32.0"})
    rows = {
        (row["member"], row["name"]): row
        for row in map(versions.Versions.as_json, versions.versions(of_extra))
    }
    assert rows["alpha", "torch"] == {
        "member": "alpha",
        "name": "torch",
        "declared": ">=2.11",
        "locked": "2.13.0",
        "installed": "2.13.0",
    }
    assert said(extras.conflicts(of_extra)) == {"1": ("ok", "alpha[vllm] alone")}


def test_two_of_a_conflict_set(workspace: Callable[..., Workspace]) -> None:
    found = said(extras.conflicts(workspace(GOOD | {"vllm": "0.32.0"})))
    assert found == {"1": ("fail", "alpha[vllm] and group cpu together")}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"alpha": "[project\n"}, "packages/alpha/pyproject.toml is no TOML"),
        ({"alpha": ALPHA.replace("numpy>=2.0", "numpy>>2")}, "'numpy>>2' is no requirement"),
        ({"alpha": "[project]\ndependencies = 3\n"}, "project.dependencies is a int, not a list"),
        ({"lock": "[[package\n"}, "uv.lock is no TOML"),
        ({"lock": '[[package]]\nname = "a"\ndependencies = 4\n'}, "package.[].dependencies is a int"),
        (
            {"root": ROOT.replace('["packages/alpha"]', '["packages/alpha", "packages/beta"]')},
            "packages/beta is missing",
        ),
    ],
)
def test_a_file_that_cannot_be_read_fails_once(
    texts: dict[str, str], message: str, workspace: Callable[..., Workspace]
) -> None:
    """And what builds on it is not looked at, or goes on without the member."""
    made = workspace(**texts)
    problem = only(files.readable(made))
    assert str(problem.status) == "fail"
    assert message in problem.found
    chosen = [
        c
        for c in CHECKS
        if c.id.startswith("packages.") and c.id not in ("packages.imports", "packages.requirements")
    ]
    assert not [row for row in run(chosen, made) if "broke" in row.finding.found]


def test_a_root_that_cannot_be_read_is_refused(tmp_path: Path, runner: CliRunner) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "wrinklefree-workspace"\ndependencies = "numpy"\n'
    )
    result = runner.invoke(app, ["doctor", str(tmp_path)])
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
    assert "project.dependencies is a str, not a list" in result.output


def test_python_outside_of_requires_python(workspace: Callable[..., Workspace]) -> None:
    made = workspace(alpha=ALPHA.replace(">=3.11", ">=3.12"))
    found = said(files.python(made))
    assert found["alpha"] == ("fail", "Python 3.11.7")
    assert set(found) == {"alpha", "interpreter"}


def test_another_checkout_is_read_and_not_run(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    workspace()
    mark = tmp_path / "ran"
    (tmp_path / "README.md").write_text("`wf logs --nope`, `python packages/alpha/scripts/own.py --x`\n")
    evil = tmp_path / "packages" / "alpha" / "scripts" / "own.py"
    evil.parent.mkdir()
    evil.write_text(f"open({str(mark)!r}, 'w')\n")
    for name in ("scripts/lock", ".venv/bin/python"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {mark}\n")
        path.chmod(0o755)
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("version_info = 3.11.9\n")
    for name, version in GOOD.items():
        install(tmp_path / ".venv" / "lib" / "python3.11" / "site-packages", name, version)
    report = diagnose(tmp_path, strict=False)
    statuses = {row.id: str(row.finding.status) for row in report.rows}
    assert not mark.exists()
    assert statuses["packages.member.alpha"] == "ok"
    assert (
        statuses["packages.lock"]
        == statuses["packages.requirements"]
        == statuses["couplings.torch"]
        == "skip"
    )
    assert "there is no --nope" in next(r.finding.found for r in report.rows if r.id == "pages.commands.1")
    assert statuses["packages.imports.alpha-DEP002"] == "warn"
    assert {
        "name": "numpy",
        "declared": ">=2.0",
        "locked": "2.4.6",
        "installed": "2.4.6",
        "member": "alpha",
    } in list(report.versions)


def test_a_checkout_without_environment_says_what_makes_one(
    workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    """What is declared is compared with the lock all the same."""
    workspace(alpha=ALPHA.replace("numpy>=2.0", "numpy>=9"))
    rows = {row.id: row.finding for row in diagnose(tmp_path, strict=False).rows}
    assert str(rows["python.version.interpreter"].status) == "fail"
    assert "uv sync" in rows["python.version.interpreter"].fix
    assert rows["packages.member.alpha"].found == "numpy: declared >=9, locked 2.4.6"
    assert str(rows["packages.member.wrinklefree-workspace"].status) == "ok"
    assert str(rows["packages.extras"].status) == "skip"


def test_unpinned_requirements_are_listed(workspace: Callable[..., Workspace]) -> None:
    finding = only(dependencies.unpinned(workspace(alpha=ALPHA.replace("numpy>=2.0", "numpy"))))
    assert (str(finding.status), finding.found) == ("warn", "1 without a bound: numpy (alpha)")


def test_members_need_no_bound(workspace: Callable[..., Workspace]) -> None:
    assert str(only(dependencies.unpinned(workspace())).status) == "ok"


def test_imports_against_declarations(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    made = workspace(alpha=ALPHA.replace("torch>=2.11", "rich>=14"))
    made._environment = own_environment()
    (tmp_path / "packages/alpha/src/alpha/__init__.py").write_text("import numpy, packaging\n")
    found = said(dependencies.imports(made))
    assert {part: status for part, (status, _text) in found.items()} == {
        "alpha-DEP002": "warn",
        "alpha-DEP003": "warn",
    }
    assert "rich" in found["alpha-DEP002"][1]
    assert "packaging (src/alpha/__init__.py:1)" in found["alpha-DEP003"][1]
    made.settings["tool"]["wf-doctor"] = {"imports": {"alpha": {"DEP002": ["rich"], "DEP003": ["packaging"]}}}
    assert said(dependencies.imports(made)) == {"": ("ok", "1 members import what they declare")}


def test_pairs_by_what_packages_require(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    made = workspace({"huggingface-hub": "1.0", "tokenizers": "0.23.2"})
    lines = ["Requires-Dist: huggingface-hub<3.0,>=1.31.0", "Requires-Dist: tokenizers>=0.23,<0.24"]
    install(tmp_path / "site", "transformers", "5.23.0", *lines, "Requires-Dist: torch ; extra == 'torch'")
    assert said(couplings.pairs(made)) == {
        "transformers-huggingface-hub": (
            "fail",
            "transformers 5.23.0 wants huggingface-hub <3.0,>=1.31.0, installed 1.0",
        ),
        "transformers-tokenizers": (
            "ok",
            "transformers 5.23.0 wants tokenizers <0.24,>=0.23, installed 0.23.2",
        ),
    }


@pytest.mark.parametrize(
    ("version", "tag", "url", "wrong"),
    [
        ("2.8.3+cu13torch2.15cxx11abiTRUE", "cp311-cp311", "", []),
        ("2.8.3+cu12torch2.15cxx11abiTRUE", "cp311-cp311", "", ["for CUDA cu12, this is cu132"]),
        (
            "2.8.3+cu13torch2.3cxx11abiFALSE",
            "cp310-cp310",
            "",
            ["for cp310, this is cp311", "for torch 2.3, this is 2.15", "C++11 ABI False, this is True"],
        ),
        ("2.8.3", "cp39-abi3", "", []),
        (
            "2.8.3",
            "cp311-cp311",
            "https://h.example/flash_attn-2.8.3+cu13torch2.9cxx11abiTRUE-cp311-cp311-x.whl",
            ["for torch 2.9, this is 2.15"],
        ),
    ],
)
def test_wheels_for_another_torch(version: str, tag: str, url: str, wrong: list[str], tmp_path: Path) -> None:
    more = {"direct_url_json": json.dumps({"url": url})} if url else {}
    folder = install(
        tmp_path, "flash-attn", version, WHEEL=f"Wheel-Version: 1.0\nTag: {tag}-linux_x86_64\n", **more
    )
    assert build_of(Distribution.at(folder)).differences("3.11.7", TORCH) == wrong


def test_compiled_wheels_are_judged(workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    made = workspace()
    assert str(only(couplings.compiled(made)).status) == "skip"
    made = Workspace(
        made.root, Environment(Path(sys.executable), "3.11.7", (str(tmp_path / "site"),), False), True
    )
    made._facts = {"torch": TORCH}
    install(tmp_path / "site", "flash-attn", "2.8.3+cu12torch2.8cxx11abiTRUE", WHEEL="Tag: cp311-cp311-x\n")
    install(tmp_path / "site", "xformers", "0.0.30", WHEEL="Tag: cp39-abi3-x\n")
    found = said(couplings.compiled(made))
    assert found["flash-attn"][0] == "fail"
    assert "for torch 2.8, this is 2.15" in found["flash-attn"][1]
    assert found["xformers"] == ("warn", "xformers does not tell which PyTorch it was compiled for")


@pytest.mark.parametrize(
    ("torch", "status"),
    [(TORCH, "ok"), (None, "fail"), ({"error": "ImportError: libcudart.so.13"}, "fail")],
)
def test_torch_that_does_not_load(torch: Any, status: str, workspace: Callable[..., Workspace]) -> None:
    finding = only(couplings.torch_build(workspace(facts={"torch": torch})))
    assert str(finding.status) == status
    assert bool(finding.fix) == (status == "fail")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a PATH of these programs alone: name -> what they print."""

    def make(**programs: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in programs.items():
            file = folder / name.replace("plusplus", "++").replace("_", "-")
            file.write_text(f"#!/bin/sh\necho '{text}'\n")
            file.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return make


def test_missing_programs_name_their_feature_and_fix(
    workspace: Callable[..., Workspace], path: Callable[..., None]
) -> None:
    path(git="git version 2.39.5")
    findings = {finding.part: finding for finding in tools.programs(workspace())}
    assert {part: str(finding.status) for part, finding in findings.items()} == {
        "uv": "warn",
        "git": "ok",
        "rsync": "warn",
        "ssh": "warn",
    }
    assert findings["rsync"].fix == "`apt-get install rsync`"


@pytest.mark.parametrize(
    ("programs", "status"),
    [
        ({}, "warn"),
        ({"gplusplus": "g++ (Debian) 10.2.1"}, "warn"),
        ({"gplusplus": "g++ (Debian) 12.2.0"}, "ok"),
        ({"clangplusplus": "clang version 14.0.6"}, "ok"),
    ],
)
def test_compilers(
    programs: dict[str, str], status: str, workspace: Callable[..., Workspace], path: Callable[..., None]
) -> None:
    path(**programs)
    assert str(only(tools.compiler(workspace())).status) == status


@pytest.mark.parametrize(("release", "status"), [("13.0", "ok"), ("12.4", "warn"), (None, "skip")])
def test_nvcc_against_torch(
    release: str | None, status: str, workspace: Callable[..., Workspace], path: Callable[..., None]
) -> None:
    path(**({"nvcc": f"Cuda compilation tools, release {release}, V1"} if release else {}))
    assert str(only(tools.cuda_compiler(workspace())).status) == status


KERNELS = {
    "isa": "avx2",
    "num_threads": 2,
    "instruction_sets": {"avx2": "available"},
    "formats": ["t5 for 9 x 8"],
}


@pytest.mark.parametrize(
    ("facts", "status", "found"),
    [
        (None, "fail", "not installed"),
        ({"error": "ImportError: no _native"}, "fail", "no _native"),
        (
            KERNELS | {"isa": "scalar", "instruction_sets": {"avx2": "the processor lacks AVX2"}},
            "warn",
            "scalar",
        ),
        (KERNELS, "ok", "avx2"),
        (KERNELS, "ok", ", 2 threads, t5 for 9 x 8"),
    ],
)
def test_kernels(facts: Any, status: str, found: str, workspace: Callable[..., Workspace]) -> None:
    finding = only(machine.kernels(workspace(facts={"kernels": facts})))
    assert str(finding.status) == status
    assert found in finding.found
    assert bool(finding.fix) == (status != "ok")


@pytest.mark.parametrize(
    ("torch", "status"),
    [({}, "ok"), ({"sees_gpu": False}, "fail"), ({"sees_gpu": False, "cuda": None}, "warn")],
)
def test_gpu_and_the_torch_beside_it(
    torch: dict[str, Any], status: str, workspace: Callable[..., Workspace], path: Callable[..., None]
) -> None:
    path(nvidia_smi="NVIDIA H100, 580.1, 81559 MiB; CUDA Version : 13.0")
    finding = only(machine.gpu(workspace(facts={"torch": TORCH | torch})))
    assert str(finding.status) == status
    assert "driver for CUDA 13.0" in finding.found


def test_folders_that_cannot_be_written(
    workspace: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WRINKLEFREE_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("WF_RUNS_DIR", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not"))
    found = said(storage.writable(workspace()))
    assert found["cache"] == ("fail", f"{tmp_path / 'file'} is no folder")
    assert found["runs"][0] == "ok"
    assert found["temporary"] == ("fail", f"{tmp_path / 'not'} is missing")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "fail"), (5, "warn"), (50, "ok")])
def test_free_disk(
    free_gib: float, status: str, workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(1, 1, int(free_gib * 2**30))  # type: ignore[attr-defined]
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    assert {status_of for status_of, _found in said(storage.free_disk(workspace())).values()} == {status}


def test_keys_are_there_or_not_and_nothing_more(
    workspace: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519").write_text("PRIVATE")
    (home / ".ssh" / "id_ed25519").chmod(0o644)
    (home / ".netrc").write_text("machine api.wandb.ai login user password netrc-secret\n")
    (home / ".modal.toml").write_text("modal-secret")
    for service in credentials.SERVICES:
        for name in service.variables:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_thesecretvalue")
    monkeypatch.setenv("RUNPOD_API_KEY", "")
    made = workspace()
    findings = list(credentials.services(made))
    present = {finding.part for finding in findings if str(finding.status) == "ok"}
    assert present == {"huggingface", "wandb", "modal"}
    assert said(findings)["ssh"] == ("warn", "id_ed25519 can be read by others")
    first = str(findings)
    assert not [
        text for text in ("hf_thesecretvalue", "netrc-secret", "modal-secret", "PRIVATE") if text in first
    ]
    monkeypatch.setenv("HF_TOKEN", "another of another length")
    assert str(list(credentials.services(made))) == first


def test_facts_of_this_environment(tmp_path: Path) -> None:
    """The child imports PyTorch and the kernels; the test asks metadata."""
    facts = ask(Path(sys.executable), "facts", cwd=tmp_path)
    environment = own_environment()
    assert facts["torch"]["version"].startswith(environment.version("torch").public)  # type: ignore[union-attr]
    assert facts["kernels"]["isa"] in facts["kernels"]["instruction_sets"]


def test_a_child_that_fails_is_asked_once(
    workspace: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check that needs it fails with its reason."""
    made = workspace()
    made._facts = None
    count = tmp_path / "count"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho asked >> {count}\necho no memory >&2\nexit 1\n")
    python.chmod(0o755)
    made._environment = Environment(python, "3.11.7", (), True)
    chosen = [check for check in CHECKS if check.id in ("couplings.torch", "features.kernels")]
    rows = run(chosen, made)
    assert [(row.id, str(row.finding.status)) for row in rows] == [
        ("couplings.torch", "fail"),
        ("features.kernels", "fail"),
    ]
    assert all("no memory" in row.finding.found for row in rows)
    assert count.read_text() == "asked\n"


def test_the_lock_of_this_checkout(workspace_root: Path) -> None:
    made = Workspace(workspace_root, own_environment(), is_own=True)
    assert str(only(lock.completed(made)).status) == "ok"


def test_a_lock_that_differs_from_the_committed_one(
    workspace: Callable[..., Workspace], workspace_root: Path, tmp_path: Path
) -> None:
    made = workspace()
    (tmp_path / "scripts").mkdir()
    shutil.copy(workspace_root / "scripts" / "lock", tmp_path / "scripts" / "lock")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "uv.lock"], ["commit", "-q", "-m", "lock"]):
        subprocess.run([*git, *command], check=True)
    assert str(only(lock.completed(made)).status) == "ok"
    assert str(only(lock.git_filter(made)).status) == "warn"
    (tmp_path / "uv.lock").write_text(LOCK.replace("2.4.6", "2.4.7"))
    finding = only(lock.completed(made))
    assert str(finding.status) == "fail"
    assert "numpy" in finding.found


@pytest.mark.slow
def test_this_checkout_is_in_order(workspace_root: Path, runner: CliRunner) -> None:
    """Under a load of others it takes longer than the 15 s of a quiet machine: processor time is counted."""
    start_s = time.monotonic()
    result = runner.invoke(app, ["doctor", "--json"])
    report = json.loads(result.output)
    assert time.monotonic() - start_s < 60
    assert result.exit_code == 0, [c for c in report["checks"] if c["status"] == "fail"]
    asked = {check.id for check in CHECKS if check.subject is Workspace}
    assert {
        i for i in asked if any(c["id"] == i or c["id"].startswith(f"{i}.") for c in report["checks"])
    } == asked
    assert not [c for c in report["checks"] if "broke" in c["found"]]
    assert {"wrinklefree-inference", "wrinklefree"} <= {row["member"] for row in report["versions"]}
