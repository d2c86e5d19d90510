// Weights of products of scale groups in the order in which vectors take them: 16 rows x 4 inputs are a step.

#include <algorithm>
#include <cstring>

#include "training/lanes.inl"

namespace tk {
namespace {

constexpr int64_t kStepBytes = 64;

// Each of the four codes + Offset, in a byte without a sign.
template <int Offset>
inline uint32_t without_sign(uint32_t codes) {
    if constexpr (Offset == 128) return codes ^ 0x80808080u;
    constexpr uint32_t kSigns = 0x80808080u, kOffsets = Offset * 0x01010101u;
    return ((codes & ~kSigns) + kOffsets) ^ (codes & kSigns);  // no carry into the next byte
}

// Rows [first, first + 16) of the codes, zero beyond the last, step by step.
template <int Offset>
inline void pack_rows(const GroupWeights& weights, int64_t first, uint8_t* out) {
    const int64_t steps = weights.cols / 4, rows = std::min<int64_t>(16, weights.rows - first);
    if (rows < 16) std::memset(out, Offset, steps * kStepBytes);
    for (int64_t r = 0; r < rows; ++r) {
        const int8_t* row = weights.codes + (first + r) * weights.cols;
        for (int64_t step = 0; step < steps; ++step) {
            uint32_t codes;
            std::memcpy(&codes, row + 4 * step, 4);
            codes = without_sign<Offset>(codes);
            std::memcpy(out + step * kStepBytes + 4 * r, &codes, 4);
        }
    }
}

inline void pack_scales(const GroupWeights& weights, int64_t first, float* out) {
    const int64_t groups = weights.cols / weights.group;
    for (int64_t g = 0; g < groups; ++g)
        for (int64_t r = 0; r < 16; ++r) out[16 * g + r] = first + r < weights.rows ? weights.scales[(first + r) * groups + g] : 0.0f;
}

}  // namespace
}  // namespace tk
