# Which sources compute on a processor, and with which flags: csrc/isa_<name>.cpp for each of instruction_sets, its own
# flags in flags_<name>; from CMAKE_SYSTEM_PROCESSOR and CMAKE_CXX_COMPILER_ID. The same sources, other flags; chosen at
# run time (isa.cpp). A processor that is named nowhere gets the portable set alone.
# As a script it prints them, a line each: cmake -D CMAKE_SYSTEM_PROCESSOR=aarch64 -D CMAKE_CXX_COMPILER_ID=GNU -P FILE

# Of every source. Fused multiply-adds stand explicitly in the code, so that results do not depend on the compiler's choice.
set(common_flags -O3 -ffp-contract=off -Wall -Wextra -fno-math-errno -Wno-psabi)

set(instruction_sets scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    set(flags_avx2 -mavx2 -mfma -mf16c -mbmi2)
    # GCC 12 takes the undefined operand of its own AVX-512 intrinsics for an uninitialised variable.
    set(flags_avx512 ${flags_avx2} -Wno-uninitialized -Wno-maybe-uninitialized
        -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni)
    set(flags_avx512_vbmi ${flags_avx512} -mavx512vbmi)
    set(flags_avx2_vnni ${flags_avx2} -mavxvnni)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # without it GCC 12 spills the 12 sums of a tile
        list(APPEND flags_avx2 -fno-tree-coalesce-vars)
        list(APPEND flags_avx2_vnni -fno-tree-coalesce-vars)
    endif()
    list(PREPEND instruction_sets avx512 avx512_vbmi avx2 avx2_vnni)  # the slowest to compile first
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(flags_neon -march=armv8.2-a+dotprod)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # scheduled before allocation, unpacked weights spill
        list(APPEND flags_neon -fno-schedule-insns)
    endif()
    list(PREPEND instruction_sets neon)
endif()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
    foreach(name IN LISTS instruction_sets)
        list(JOIN common_flags " " common)
        list(JOIN flags_${name} " " own)
        message("${name} ${common} ${own}")
    endforeach()
endif()
