// AVX-512 VNNI and VBMI (Ice Lake and later, Zen 4 and later): the products of t5, all else is that of isa_avx512.cpp.
#include "int_avx512.inl"

namespace tk {
extern const MatmulFn kVbmiT5;
const MatmulFn kVbmiT5 = matmul<T5Kernel>;
}  // namespace tk
