// The reference: plain C++ for any processor, and what the other instruction sets' integers are compared with.
#define TK_TABLE kScalar
#include <algorithm>
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

// The integer sums of each plane with both halves of a token, which are two rows of the panel; then y = U x + W conj(x),
// whose terms every instruction set adds in this order.
void matmul_phases(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    const int64_t planes = num_phase_planes(matrix.format), half_rows = matrix.rows / 2, half_cols = matrix.padded_cols / 2;
    std::vector<uint8_t> phases(planes * kRowBlock * half_cols);
    for (int64_t block = first; block < last; ++block) {
        matrix.unpack_phases(block, phases.data());
        for (int64_t r = 0; r < std::min(kRowBlock, half_rows - block * kRowBlock); ++r)
            for (int64_t t = 0; t < x.tokens; t += 2) {
                float re = 0, im = 0;
                for (int64_t plane = 0; plane < planes; ++plane) {
                    int32_t real[2] = {}, imaginary[2] = {};  // of the phases' parts with the token's halves
                    for (int64_t c = 0; c < half_cols; ++c) {
                        const int phase = phases[(plane * kRowBlock + r) * half_cols + c];
                        for (int half = 0; half < 2; ++half) {
                            int8_t lanes[kStep];
                            std::memcpy(lanes, x.codes + c / kStep * x.tokens + t + half, kStep);
                            real[half] += (phase == 0 ? 1 : phase == 2 ? -1 : 0) * lanes[c % kStep];
                            imaginary[half] += (phase == 1 ? 1 : phase == 3 ? -1 : 0) * lanes[c % kStep];
                        }
                    }
                    const float along = matrix.row_scales[2 * plane], across = matrix.row_scales[2 * plane + 1];
                    const float sign = plane % 2 ? -1.0f : 1.0f;  // W's input is conjugated
                    re = std::fma(static_cast<float>(real[0]), along, re);
                    re = std::fma(static_cast<float>(imaginary[1]), -sign * across, re);
                    im = std::fma(static_cast<float>(real[1]), sign * along, im);
                    im = std::fma(static_cast<float>(imaginary[0]), across, im);
                }
                float* row = out + t / 2 * stride + block * kRowBlock + r;
                row[0] = re * x.scales[t];
                row[half_rows] = im * x.scales[t];
            }
    }
}

}  // namespace
}  // namespace tk

#include "training/group_any.inl"

#define TK_MATMULS matmul, matmul, matmul, matmul, matmul, matmul_phases, matmul_phases
#include "table.inl"
