"""Another repository: its declarations are read without running it, and their risks named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from wf_deployer.doctor.diagnosis import diagnose
from wf_deployer.doctor.report import Report
from wf_deployer.doctor.repository.satisfiable import is_satisfiable
from wf_deployer.doctor.workspace.checkout import Workspace

TORCH = {"version": "2.15.0+cu132", "cuda": "13.2", "cxx11_abi": True, "sees_gpu": False}


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch itself is asked in test_doctor_workspace.py."""
    monkeypatch.setattr(Workspace, "facts", {"torch": TORCH, "kernels": None})


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Puts an nvcc of a release alone onto the PATH; None: none."""

    def make(release: str | None) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        if release is not None:
            (folder / "nvcc").write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V1'\n")
            (folder / "nvcc").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return make


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, contents in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return root


def found(report: Report, check: str) -> dict[str, tuple[str, str]]:
    """part -> (status, everything said) of one check."""
    return {
        row.id.removeprefix(check).lstrip("."): (
            str(row.finding.status),
            " | ".join((row.finding.found, row.finding.expected, row.finding.fix)),
        )
        for row in report.rows
        if row.id == check or row.id.startswith(f"{check}.")
    }


@pytest.fixture
def llm_awq(tmp_path: Path) -> Path:
    """What mit-han-lab/llm-awq declares (d6e797a): versions and names, not its files."""
    pins = ["accelerate==0.34.2", "torch==2.3.0", "torchvision==0.18.0", "transformers==4.46.0"]
    pins += ["lm_eval==0.3.0", "gradio==3.35.2", "gradio_client==0.2.9", "pydantic==1.10.19"]
    free = ["sentencepiece", "texttable", "toml", "attributedict", "protobuf", "fastapi", "uvicorn"]
    return write(
        tmp_path / "llm-awq",
        {
            "pyproject.toml": (
                '[build-system]\nrequires = ["setuptools>=61.0"]\nbuild-backend = "setuptools.build_meta"\n'
                f'[project]\nname = "awq"\nversion = "0.1.0"\nrequires-python = ">=3.8"\n'
                f"dependencies = {[*pins, *free, 'tokenizers>=0.12.1']}\n"
            ),
            "awq/kernels/setup.py": (
                "from setuptools import setup\n"
                "from torch.utils.cpp_extension import BuildExtension, CUDAExtension\n"
                "open('/was/run', 'w')\n"
                "setup(name='engine', cmdclass={'build_ext': BuildExtension}, install_requires=['torch'],\n"
                "      ext_modules=[CUDAExtension(name='engine', sources=['a.cpp', 'b.cu', 'c.cu'])])\n"
            ),
            "README.md": "# AWQ\n\nFirst:\n\n```\npip install flash-attn --no-build-isolation\n```\n",
        },
    )


def test_llm_awq_has_its_four_known_risks(llm_awq: Path, nvcc: Callable[[str | None], None]) -> None:
    nvcc("12.1")
    report = diagnose(llm_awq, strict=False)
    assert report.exit_code == 1
    assert not [row for row in report.rows if "broke" in row.finding.found]

    # 1. its kernels are tied to one torch, CUDA release and C++ ABI
    built = found(report, "build.extensions")
    status, text = built["abi-awq/kernels/setup.py"]
    assert status == "warn"
    assert "CUDAExtension of 3 sources (2 of CUDA), tied to the torch, CUDA and C++ ABI" in text
    assert (
        "torch 2.3.0 is pinned (mostly the ABI of before C++11), here torch 2.15.0+cu132 (C++11 ABI)" in text
    )
    assert built["isolation-awq/kernels/setup.py"][0] == "fail"
    assert "--no-build-isolation ./awq/kernels" in built["isolation-awq/kernels/setup.py"][1]
    status, text = built["nvcc-awq/kernels/setup.py"]
    assert status == "fail"
    assert "nvcc 12.1" in text
    assert "CUDA 13.2 (torch.version.cuda here)" in text

    # 2. flash-attn is built against a torch
    status, text = found(report, "couplings.compiled")["flash-attn"]
    assert status == "warn"
    assert "README.md:" in text
    assert "torch 2.3.0 is pinned" in text

    # 3. transformers is pinned, with accelerate, and huggingface-hub follows nobody
    couplings = found(report, "couplings.transformers")
    assert couplings["transformers-pyproject.toml"][1].startswith(
        "transformers==4.46.0 is older than we need"
    )
    status, text = couplings["huggingface-hub"]
    assert status == "warn"
    assert "needs huggingface-hub<1.0: huggingface-hub is not declared, beside accelerate==0.34.2" in text

    # 4. what is not pinned drifts; what is pinned cannot live with us
    status, text = found(report, "requirements.unpinned")["pyproject.toml"]
    assert status == "warn"
    assert text.startswith("7 without a bound")
    assert "attributedict, fastapi, protobuf, sentencepiece, texttable, toml, uvicorn" in text
    assert found(report, "requirements.unpinned")["awq/kernels/setup.py"][0] == "warn"
    conflicts = found(report, "requirements.conflict")
    assert set(conflicts) == {"accelerate", "torch", "torchvision", "transformers", "lm-eval", "pydantic"}
    assert {status for status, _text in conflicts.values()} == {"fail"}
    assert found(report, "couplings.torch")["torchvision"] == (
        "ok",
        "torch==2.3.0, torchvision==0.18.0 |  | ",
    )


def test_a_repository_that_fits_says_so(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"pyproject.toml": '[project]\nname="x"\nrequires-python=">=3.10"\ndependencies=["numpy>=2.0,<3"]\n'},
    )
    report = diagnose(tmp_path, strict=True)
    assert (report.verdict, report.exit_code) == ("ok", 0)


def test_no_code_of_it_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = f"open({str(mark)!r}, 'w').close()\n"
    write(
        tmp_path,
        dict.fromkeys(("setup.py", "conftest.py", "a/__init__.py", "a/setup.py", "sitecustomize.py"), evil),
    )
    diagnose(tmp_path, strict=False)
    assert not mark.exists()


def test_requirements_as_pip_reads_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "requirements.txt": (
                "\ufeff# comment\nnumpy>=2 \\\n  --hash=sha256:aa\n-r other/more.txt\n"
                "-rlist-requirements.txt\n"
                "git+https://host.example/owner/tool.git@main\nscipy ; python_version < '3'  # why\n"
                "pkg @ git+https://host.example/o/pkg@0123456789abcdef0123456789abcdef01234567\n./local\n"
            ),
            "other/more.txt": "pandas==1\n-r ../requirements.txt\n",
            "list-requirements.txt": "rich\n",
        },
    )
    report = diagnose(tmp_path, strict=False)
    texts = dict(found(report, "files.read").values())
    assert set(texts) == {"ok"}
    assert "5 requirements in list-requirements.txt" in texts["ok"].replace(", requirements.txt", "")
    assert set(found(report, "requirements.source")) == {"tool"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"requirements.txt": "numpy >= two\n"}, "requirements.txt: 'numpy >= two' is no requirement"),
        ({"requirements.txt": "numpy ; python_version ~= 'x'\n"}, "is no requirement"),
        ({"requirements.txt": "numpy ; os_name > 'a' and odd == '1'\n"}, "is no requirement"),
        ({"requirements.txt": "-r ../../outside.txt\n"}, "lies outside of the repository"),
        ({"requirements.txt": "-r missing.txt\n"}, "missing.txt is missing"),
        ({"requirements.txt": b"caf\xe9==1\n"}, "requirements.txt is no UTF-8 text (byte 3)"),
        ({"requirements.txt": "a" * 20_000}, "it has 20000 characters"),
        ({"pyproject.toml": "[project\n"}, "pyproject.toml is no TOML"),
        ({"pyproject.toml": '[project]\ndependencies = "numpy"\n'}, "a list of requirements is a str"),
        ({"pyproject.toml": '[project]\nrequires-python = "three"\n'}, "'three' are no bounds"),
        ({"setup.cfg": "no section\n"}, "setup.cfg is no setup.cfg"),
        ({"setup.py": "setup(\n"}, "setup.py is no Python that can be read"),
        ({"setup.py": "x = " + "(" * 500 + ")" * 500}, "setup.py is no Python that can be read"),
    ],
)
def test_what_cannot_be_read_is_a_failure_that_names_it(
    files: dict[str, str | bytes], message: str, tmp_path: Path
) -> None:
    report = diagnose(write(tmp_path, files), strict=False)
    failures = [text for status, text in found(report, "files.read").values() if status == "fail"]
    assert len(failures) == 1
    assert message in failures[0]
    assert not [row for row in report.rows if "broke" in row.finding.found]


def test_setup_py_by_its_syntax(tmp_path: Path) -> None:
    source = (
        "import torch\nBASE = ['numpy==1.0']\nMORE = BASE + ['six']\nDYNAMIC = open('x').read()\n"
        "setup(install_requires=MORE, setup_requires=DYNAMIC, extras_require={'dev': ['pytest']},\n"
        "      python_requires='>=3.7,<3.10')\n"
    )
    report = diagnose(write(tmp_path, {"setup.py": source}), strict=False)
    assert found(report, "files.read")["computed"][1].startswith(
        "setup.py: setup_requires is known only when it runs"
    )
    assert found(report, "python.bounds")["setup.py"][0] == "fail"
    assert "pytest, six" in found(report, "requirements.unpinned")["setup.py"][1]
    assert "numpy==1.0" in found(report, "requirements.conflict")["numpy"][1]


def test_setup_py_with_common_arguments(tmp_path: Path) -> None:
    source = (
        "common = {'python_requires': '<3.10', 'name': 'flash_attn', [1]: 2}\n"
        "setup(install_requires=['flash-attn', 'xformers'], **common)\n"
    )
    report = diagnose(write(tmp_path, {"setup.py": source}), strict=False)
    assert found(report, "python.bounds")["setup.py"][0] == "fail"
    assert set(found(report, "couplings.compiled")) == {"xformers"}  # the other is the repository itself


def test_markers_that_do_not_hold_here(tmp_path: Path) -> None:
    text = (
        "torch==2.0 ; sys_platform == 'win32'\ntorch>=2.11 ; sys_platform == 'linux'\nsix>=1 ; extra == 'x'\n"
    )
    report = diagnose(write(tmp_path, {"requirements.txt": text}), strict=False)
    assert set(found(report, "requirements.conflict")) == {""}
    assert "1 requirements in" in found(report, "files.read")["files"][1]


def test_poetry_and_setup_cfg(tmp_path: Path) -> None:
    poetry = (
        '[tool.poetry.dependencies]\npython = "^3.11"\ntransformers = "^4.30"\nsix = "*"\nnumpy = "~2.1"\n'
        'tool = { git = "https://host.example/tool.git", branch = "main" }\n'
    )
    files = {"pyproject.toml": poetry, "setup.cfg": "[options]\ninstall_requires =\n  pydantic<2\n"}
    report = diagnose(write(tmp_path, files), strict=False)
    conflicts = found(report, "requirements.conflict")
    assert set(conflicts) == {"transformers", "numpy", "pydantic"}
    assert "transformers<5,>=4.30" in conflicts["transformers"][1]
    assert "numpy<2.2,>=2.1" in conflicts["numpy"][1]
    assert found(report, "python.bounds")["pyproject.toml"] == (
        "warn",
        "upper bound <4 | none | ask for the newest Python that it was tested with, no more",
    )
    assert set(found(report, "requirements.source")) == {"tool"}


def test_conflicts_with_itself(tmp_path: Path) -> None:
    text = "six==1.0\nsix>=1.1\nattrs>=2,<1\nfoo>=1\nfoo!=1\nbar>1\nbar<1.1\n"
    report = diagnose(write(tmp_path, {"requirements.txt": text}), strict=False)
    conflicts = found(report, "requirements.conflict")
    assert {part for part in conflicts if part.startswith("self-")} == {"self-six", "self-attrs"}
    assert conflicts["self-six"][0] == "fail"


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        ((">=1", "<1"), False),
        ((">1", "<1.1"), True),
        (("==1.*", "!=1.0"), True),
        (("~=1.4", "<1.4"), False),
        (("==2.3.0", ">=2.11"), False),
        (("===odd", "==1"), True),
        (("<2",), True),
        ((">=1.5", "<2", "!=1.5"), True),
    ],
)
def test_satisfiable(bounds: tuple[str, ...], fits: bool) -> None:
    assert is_satisfiable([SpecifierSet(text) for text in bounds]) is fits


def test_secrets_of_urls_are_not_shown(tmp_path: Path) -> None:
    key = "hf_" + "a1" * 12
    text = (
        f"git+https://user:{key}@host.example/o/a.git\n--extra-index-url https://u:passw0rd@host.example/simple\n"
        f"b @ http://t:s3cret@host.example/b.whl?token=abcdef\nbad line {key}\n"
    )
    report = diagnose(write(tmp_path, {"requirements.txt": text}), strict=False)
    everything = str(report.as_json())
    assert not [secret for secret in (key, "passw0rd", "s3cret", "abcdef") if secret in everything]
    assert set(found(report, "requirements.source")) == {"a", "b", "index-1"}


def test_moved_and_ended_packages(tmp_path: Path) -> None:
    report = diagnose(write(tmp_path, {"requirements.txt": "autoawq==0.2.9\nsklearn\nnumpy\n"}), strict=False)
    assert set(found(report, "requirements.ended")) == {"autoawq", "sklearn"}


def test_a_lock_file_holds_what_has_no_bound(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": '[project]\ndependencies = ["numpy"]\n', "poetry.lock": ""})
    status, text = found(diagnose(tmp_path, strict=False), "requirements.unpinned")["pyproject.toml"]
    assert (status, "locked by poetry.lock" in text) == ("ok", True)


def test_torchvision_of_another_torch(tmp_path: Path) -> None:
    report = diagnose(
        write(tmp_path, {"requirements.txt": "torch==2.3.0\ntorchvision==0.19.0\n"}), strict=False
    )
    status, text = found(report, "couplings.torch")["torchvision"]
    assert (status, "torchvision 0.18" in text) == ("fail", True)


def test_an_extension_that_names_its_torch(tmp_path: Path, nvcc: Callable[[str | None], None]) -> None:
    nvcc("13.0")
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools>=80", "torch==2.15.0"]\n',
        "setup.py": "import torch.utils.x as c\nsetup(ext_modules=[c.CUDAExtension('x', ['x.cu'])])\n",
    }
    built = found(diagnose(write(tmp_path, files), strict=False), "build.extensions")
    assert set(built) == {"abi-setup.py", "nvcc-setup.py"}
    assert built["nvcc-setup.py"][0] == "ok"


def test_without_nvcc_cuda_code_cannot_be_compiled(llm_awq: Path, nvcc: Callable[[str | None], None]) -> None:
    nvcc(None)
    assert found(diagnose(llm_awq, False), "build.extensions")["nvcc-awq/kernels/setup.py"][0] == "fail"


def test_trees_without_end_are_bounded(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"setup.py": "", "README.md": "install " + "[" * 180_000, "requirements.txt": "torch>=1\n" * 30_000},
    )
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self-requirements.txt").symlink_to("self-requirements.txt")
    os.mkfifo(tmp_path / "pipe-requirements.txt")
    deep = tmp_path
    for _ in range(40):
        deep = deep / "d"
    write(deep, {"setup.py": "setup(install_requires=['too-deep'])"})
    bomb = "a0 = 'x'\n" + "".join(f"a{i} = [a{i - 1}, a{i - 1}, a{i - 1}]\n" for i in range(1, 50))
    write(tmp_path, {"bomb/setup.py": f"{bomb}setup(install_requires=a49)"})
    start_s = time.process_time()
    report = diagnose(tmp_path, strict=False)
    assert time.process_time() - start_s < 10
    assert not [row for row in report.rows if "broke" in row.finding.found or "too-deep" in row.finding.found]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[31m-requirements.txt")
    (tmp_path / name).write_text("torch==2.3.0\n")
    report = diagnose(tmp_path, strict=False)
    assert found(report, "requirements.conflict")["torch"][0] == "fail"


def test_a_package_of_this_checkout_is_no_stranger(workspace_root: Path) -> None:
    report = diagnose(workspace_root / "packages" / "inference", strict=False)
    problems = {row.id for row in report.rows if row.finding.status.is_problem}
    assert problems == {"python.bounds.pyproject.toml"}
