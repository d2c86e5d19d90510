// AVX2 with AVX-VNNI (Alder Lake and later, Zen 5 and later): the integer products, all else is that of isa_avx2.cpp.
#include "int_avx2.inl"
#include "training/group_narrow.inl"

namespace tk {
extern const IntegerProducts kVnniProducts;
const IntegerProducts kVnniProducts = {{TK_MATMULS}, group_product<float>, group_product<Bf16>};
}  // namespace tk
