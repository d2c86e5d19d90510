// AVX-512 VNNI and VBMI (Ice Lake and later, Zen 4 and later).
#define TK_TABLE kAvx512Vbmi
#include "isa_avx512.inl"
