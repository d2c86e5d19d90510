"""What only a compiler can tell: objects of instruction sets share nothing, and agree; NEON under qemu.

Sources and flags are those that CMake takes. `scripts/aarch64` runs the whole extension on ARM's side.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_sources import CSRC, chosen

PACKAGE = Path(__file__).parents[1]
COMPARE = PACKAGE / "tests" / "cpp" / "compare_isa.cpp"
SHARED = ["isa.cpp", "matrix.cpp"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def tool(*names: str) -> str:
    """The first of some programs that exists, or a skip."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"none of {', '.join(names)} is installed")


def run(*command: str | Path) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command[0]}: {result.stdout[-3000:]}{result.stderr[-3000:]}"
    return result.stdout


def compile_objects(folder: Path, processor: str, compiler: str) -> dict[str, Path]:
    """Object files by source: one per instruction set, and what the comparison links besides."""
    is_clang = "clang" in run(compiler, "--version").lower()
    sets = chosen(processor, "Clang" if is_clang else "GNU")
    sources = {f"isa_{name}.cpp": flags for name, flags in sets.items()} | dict.fromkeys(
        SHARED, sets["scalar"]
    )
    for source, flags in sources.items():
        command = [compiler, "-std=c++20", "-fPIC", "-fvisibility=hidden", *flags, f"-I{CSRC}", "-c"]
        run(*command, CSRC / source, "-o", folder / f"{source}.o")
    return {source: folder / f"{source}.o" for source in sources}


def compare(folder: Path, compiler: str, objects: dict[str, Path], *emulator: str) -> dict[str, str]:
    """What the comparison says of each instruction set, by name."""
    program = folder / "compare_isa"
    static = ["-static"] if emulator else []
    run(
        compiler, "-std=c++20", "-O2", "-ffp-contract=off", *static, COMPARE, *objects.values(), "-o", program
    )
    lines = run(*emulator, program).splitlines()
    return dict(line.split(": ", 1) for line in lines)


@pytest.fixture(scope="module")
def compiler() -> str:
    return tool("c++", "g++", "clang++")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory, compiler: str) -> dict[str, Path]:
    return compile_objects(tmp_path_factory.mktemp("objects"), platform.machine(), compiler)


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


AGREES = "0 products and 0 quantizations differ, 0 extremes are wrong"


def test_tables_agree(objects: dict[str, Path], compiler: str, tmp_path: Path) -> None:
    said = compare(tmp_path, compiler, objects)
    assert len(said) == sum(source.startswith("isa_") for source in objects)
    assert said["scalar"].startswith(AGREES)


def test_neon_under_an_emulator(tmp_path: Path) -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64", "qemu-aarch64-static")
    objects = compile_objects(tmp_path, "aarch64", compiler)
    said = compare(tmp_path, compiler, objects, emulator, "-cpu", "max")
    assert said["scalar"].startswith(AGREES)
    assert said["neon_dot"].startswith(AGREES), said
    # a processor without dot products: found out, not run into
    listed = run(emulator, "-cpu", "cortex-a53", tmp_path / "compare_isa", "--list").splitlines()
    assert listed == ["scalar: available", "neon_dot: not run, the processor lacks ASIMDDP"]
