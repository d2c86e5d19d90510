"""Which sources a processor compiles, with which flags: csrc/instruction_sets.cmake, asked as a script."""

from __future__ import annotations

import re

import pytest
from kernel_sources import CSRC, chosen

X86_SETS = {"avx2", "avx2_vnni", "avx512", "avx512_vbmi"}
PROCESSORS = {
    "x86_64": {"scalar", *X86_SETS},
    "aarch64": {"scalar", "neon"},  # Linux
    "arm64": {"scalar", "neon"},  # macOS
    "riscv64": {"scalar"},
}
COMPILERS = ("GNU", "Clang", "AppleClang")
ONLY_GCC = {"-fno-schedule-insns", "-fno-tree-coalesce-vars"}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_processor_gets_its_own_instruction_sets(processor: str, compiler: str) -> None:
    sets = chosen(processor, compiler)
    assert set(sets) == PROCESSORS[processor]
    assert all((CSRC / f"isa_{name}.cpp").is_file() for name in sets)
    for name, flags in sets.items():
        assert "-ffp-contract=off" in flags, name
        machine = {flag for flag in flags if flag.startswith("-m")}
        assert bool(machine) == (name != "scalar"), (
            name
        )  # the portable set runs on every processor of the kind
        assert all(flag.startswith(("-mavx", "-mf", "-mbmi")) == (name in X86_SETS) for flag in machine), name
        assert compiler == "GNU" or not ONLY_GCC & set(flags), name


def test_every_instruction_set_is_some_processor_s() -> None:
    sources = {path.stem.removeprefix("isa_") for path in CSRC.glob("isa_*.cpp")}
    assert sources == set().union(*PROCESSORS.values())


def test_headers_of_a_processor_are_included_for_it_alone() -> None:
    """They stand under a condition, or in what only that processor's sources include."""
    of_one_processor = re.compile(r"(int|group)_(avx2|avx512|neon)\.inl")
    headers = re.compile(r"#include <(immintrin|arm_neon|asm/hwcap|sys/auxv|sys/sysctl|sched)\.h>")
    found = 0
    for path in sorted(CSRC.rglob("*")):
        if path.suffix not in {".cpp", ".h", ".inl"} or of_one_processor.fullmatch(path.name):
            continue
        depth = 0
        for line in path.read_text().splitlines():
            depth += line.startswith("#if") - line.startswith("#endif")
            if headers.match(line):
                found += 1
                assert depth > 0, f"{path.name}: {line}"
    assert found >= 5  # vec.h, roofline.cpp, pool.cpp, isa.cpp
