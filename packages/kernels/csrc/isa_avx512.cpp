// AVX-512 VNNI (Cascade Lake and later, Zen 4 and later).
#include "float_kernels.inl"
#include "int_avx512.inl"
#include "training/group_avx512.inl"

#define TK_TABLE kAvx512
#define TK_MATMULS \
    matmul<PlainKernel<UnpackT2>>, matmul<T5Kernel>, matmul<PlainKernel<UnpackQ4>>, matmul<PlainKernel<UnpackQ6>>, matmul<PlainKernel<UnpackQ8>>, \
        matmul_phases<num_phase_planes(Format::p1)>, matmul_phases<num_phase_planes(Format::p2)>
#include "table.inl"
