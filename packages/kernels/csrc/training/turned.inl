// Rotary positions (Su et al. 2021, arXiv 2104.09864) in the form that turns halves of a head, as transformers computes them:
//
//     out = x * cosine + (-second half, first half) * sine
//
// Products and sums are rounded to T one by one where PyTorch's operators round them, so results equal theirs to the bit:
// everywhere, but forward with float32 angles, where bfloat16 x are multiplied and added in float32.

#include "training/kernels.inl"

namespace tk {
namespace {

TK_INLINE Vec as_stored(Vec v, float) { return v; }
TK_INLINE Vec as_stored(Vec v, Bf16) { return (Vec)(half_bits(v) << 16); }

// first_out = first * cosine - second * sine, second_out = second * cosine + first * sine; `sign` turns the other way.
template <typename Rounded, typename T, typename A>
TK_INLINE void turn_heads(const T* x, int64_t heads, int64_t size, const A* cosine, const A* sine, bool backward, T* out) {
    const int64_t half = size / 2;
    for (const T* end = x + heads * size; x < end; x += size, out += size)
        over_row(half, [&](int64_t i, auto part) TK_INLINED {
            const auto product = [&](Vec value, const A* angles) TK_INLINED { return as_stored(value * get(angles, part), Rounded{}); };
            const Vec first = get(x + i, part), second = get(x + half + i, part);
            // Backwards each half's sine is the one that it was multiplied with on its way to the other.
            const Vec over = product(second, sine + i + (backward ? half : 0)), back = product(first, sine + i + (backward ? 0 : half));
            const Vec of_first = product(first, cosine + i), of_second = product(second, cosine + half + i);
            put(out + i, backward ? of_first + over : of_first - over, part);
            put(out + half + i, backward ? of_second - back : of_second + back, part);
        });
}

template <typename T>
void turn(const T* x, int64_t heads, int64_t size, const Angles& angles, T* out) {
    if (angles.bf16) turn_heads<T>(x, heads, size, static_cast<const Bf16*>(angles.cosine), static_cast<const Bf16*>(angles.sine), false, out);
    else turn_heads<float>(x, heads, size, static_cast<const float*>(angles.cosine), static_cast<const float*>(angles.sine), false, out);
}

template <typename T>
void turn_backward(const T* grad, int64_t heads, int64_t size, const Angles& angles, T* grad_x) {
    if (angles.bf16) turn_heads<T>(grad, heads, size, static_cast<const Bf16*>(angles.cosine), static_cast<const Bf16*>(angles.sine), true, grad_x);
    else turn_heads<T>(grad, heads, size, static_cast<const float*>(angles.cosine), static_cast<const float*>(angles.sine), true, grad_x);
}

}  // namespace
}  // namespace tk
