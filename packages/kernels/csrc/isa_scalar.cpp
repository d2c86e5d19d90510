// The reference: plain C++ for any processor, and what the other instruction sets' integers are compared with.
#define TK_TABLE kScalar
#include <vector>

#include "float_kernels.inl"

namespace tk {
namespace {

// Codes are taken out of the packed block by the matrix itself, one row block at a time.
void matmul(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    std::vector<int8_t> codes(kRowBlock * matrix.padded_cols);
    const int64_t group = matrix.group ? matrix.group : matrix.padded_cols;
    for (int64_t block = first; block < last; ++block) {
        matrix.unpack_block(block, codes.data());
        for (int64_t r = 0; r < kRowBlock; ++r) {
            for (int64_t t = 0; t < x.tokens; ++t) {
                float total = 0;
                for (int64_t g = 0; x.group_sums && g < matrix.num_groups; ++g) {
                    const auto at = [&](const uint16_t* halves) { return half_to_float(halves[g * kRowBlock + r]); };
                    const auto offset = static_cast<float>(info(matrix.format).offset);
                    const float minimum = std::fma(at(matrix.scales_of(block)), offset, at(matrix.minimums_of(block)));
                    total = std::fma(x.group_sums[g * x.tokens + t], minimum, total);
                }
                for (int64_t start = 0; start < matrix.padded_cols; start += group) {
                    int32_t dot = 0;
                    for (int64_t c = start; c < start + group; ++c) {
                        int8_t lanes[kStep];
                        std::memcpy(lanes, x.codes + c / kStep * x.tokens + t, kStep);
                        dot += int32_t{codes[r * matrix.padded_cols + c]} * lanes[c % kStep];
                    }
                    float scale = matrix.group ? half_to_float(matrix.scales_of(block)[start / group * kRowBlock + r]) : 1.0f;
                    if (x.group_scales) scale *= x.group_scales[start / group * x.tokens + t];
                    total = std::fma(static_cast<float>(dot), scale, total);
                }
                out[t * stride + block * kRowBlock + r] = total * (matrix.row_scales[block * kRowBlock + r] * x.scales[t]);
            }
        }
    }
}

}  // namespace
}  // namespace tk

#include "training/group_any.inl"

#define TK_MATMULS matmul, matmul, matmul, matmul, matmul
#include "table.inl"
