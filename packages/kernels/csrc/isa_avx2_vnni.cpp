// AVX2 with AVX-VNNI (Alder Lake and later, Zen 5 and later).
#define TK_TABLE kAvx2Vnni
#include "float_kernels.inl"
#include "int_avx2.inl"
#include "training/group_narrow.inl"
#include "table.inl"
