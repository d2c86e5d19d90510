// AVX2 (Haswell and later, Zen and later).
#define TK_TABLE kAvx2
#include "float_kernels.inl"
#include "int_avx2.inl"
#include "training/group_narrow.inl"
#include "table.inl"
