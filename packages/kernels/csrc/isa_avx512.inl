// The table of an AVX-512 build: included by isa_avx512.cpp and isa_avx512_vbmi.cpp.
#include "float_kernels.inl"
#include "int_avx512.inl"
#include "training/group_avx512.inl"

#define TK_MATMULS \
    matmul<PlainKernel<UnpackT2>>, matmul<T5Kernel>, matmul<PlainKernel<UnpackQ4>>, matmul<PlainKernel<UnpackQ6>>, matmul<PlainKernel<UnpackQ8>>
#include "table.inl"
