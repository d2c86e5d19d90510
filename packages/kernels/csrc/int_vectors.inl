// Vector types and loops for integer products on vectors of fewer than 16 rows (AVX2, NEON).

#include "kernels.h"
#include "vec.h"

namespace tk {
namespace {

// A step of a row block (16 rows x 4 inputs, 64 bytes) is kParts vectors of kWidth rows x 4 inputs.
constexpr int kParts = kRowBlock / kWidth;
typedef uint8_t Bytes __attribute__((vector_size(kWidth * 4), may_alias));
typedef uint16_t Words __attribute__((vector_size(kWidth * 4), may_alias));

template <int N>
struct Int {
    static constexpr int value = N;
};

// Calls body(Int<0>), ..., body(Int<N-1>): loops whose index must be a constant, to keep arrays in registers.
template <int N, typename Body>
TK_INLINE void unrolled(const Body& body) {
    if constexpr (N > 0) {
        unrolled<N - 1>(body);
        body(Int<N - 1>{});
    }
}

// Sums of one block of rows for a token, apart for the steps of a unit; instruction sets that have some (kApart) define them.
template <typename Unpack>
struct StepSums;

TK_INLINE Bytes load_bytes(const uint8_t* x) { return *reinterpret_cast<const Bytes*>(x); }
template <int Bits>
TK_INLINE Bytes shifted_right(Bytes x) {
    return (Bytes)((Words)x >> Bits);
}
template <int Bits>
TK_INLINE Bytes shifted_left(Bytes x) {
    return (Bytes)((Words)x << Bits);
}

}  // namespace
}  // namespace tk
