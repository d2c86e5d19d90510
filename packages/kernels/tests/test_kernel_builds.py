"""What only a compiler can tell: objects of different instruction sets share nothing, NEON agrees.

The objects are built with the commands that CMake would use.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
COMPARE = PACKAGE / "tests" / "cpp" / "compare_isa.cpp"
SHARED = ["isa.cpp", "matrix.cpp", "isa_scalar.cpp"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def tool(*names: str) -> str:
    """The first of some programs that exists, or a skip."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"none of {', '.join(names)} is installed")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command[0]}: {result.stdout[-3000:]}{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Object files by source name: one per instruction set, and what the comparison links besides."""
    folder = tmp_path_factory.mktemp("objects")
    build_type, python = "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"
    run(tool("cmake"), "-S", PACKAGE, "-B", folder, build_type, python, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    built = {}
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        source = Path(entry["file"])
        if source.parent.name == "csrc" and (source.name in SHARED or source.name.startswith("isa_")):
            command = shlex.split(entry["command"])
            built[source.name] = folder / f"{source.stem}.o"
            command[command.index("-o") + 1] = str(built[source.name])
            run(*command, cwd=Path(entry["directory"]))
    return built


def test_instruction_sets_share_no_inline_functions(objects: dict[str, Path]) -> None:
    """Of a weak function the linker keeps one copy: an AVX-512 one would then run on processors without."""
    nm = tool("nm")
    for source, path in objects.items():
        if not source.startswith("isa_") or source == "isa_scalar.cpp":
            continue
        symbols = [line.split(maxsplit=2) for line in run(nm, "--defined-only", "-C", path).splitlines()]
        names = [(kind, name) for _, kind, name in symbols if not name.startswith("DW.ref.")]
        assert [name for kind, name in names if kind in "WVui"] == [], source
        # beside its table, nothing of it can be linked to
        visible = [name for kind, name in names if kind.isupper()]
        assert len(visible) == 1, f"{source}: {visible}"
        assert visible[0].startswith("tk::k"), source


def test_tables_agree(objects: dict[str, Path], tmp_path: Path) -> None:
    program = tmp_path / "compare_isa"
    flags = ["-std=c++20", "-O2", "-ffp-contract=off"]
    run(tool("c++", "g++", "clang++"), *flags, COMPARE, *objects.values(), "-o", program)
    lines = run(program).splitlines()
    assert "scalar: 0 products and 0 quantizations differ" in lines[0]
    assert len(lines) == sum(source.startswith("isa_") for source in objects)


def test_neon_under_an_emulator(tmp_path: Path) -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64", "qemu-aarch64-static")
    flags = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi"]
    neon = tmp_path / "isa_neon.o"
    run(
        compiler,
        *flags,
        "-march=armv8.2-a+dotprod",
        "-fno-schedule-insns",
        "-c",
        PACKAGE / "csrc/isa_neon.cpp",
        "-o",
        neon,
    )
    sources = [PACKAGE / "csrc" / name for name in SHARED]
    run(compiler, *flags, "-static", COMPARE, *sources, neon, "-o", tmp_path / "compare_isa")
    lines = run(emulator, "-cpu", "max", tmp_path / "compare_isa").splitlines()
    assert lines[1].startswith("neon_dot: 0 products and 0 quantizations differ"), lines
