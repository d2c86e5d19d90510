// AVX-512 VNNI, without VBMI (Cascade Lake, Cooper Lake).
#define TK_TABLE kAvx512
#include "isa_avx512.inl"
