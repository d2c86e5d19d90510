#include "matrix.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace tk {

namespace {

constexpr FormatInfo kFormats[kNumFormats] = {
    {"t2", 16, 64, -1, 1, 1},
    {"t5", 96, 320, -1, 1, 1},
    {"q4", 8, 64, -8, 7, 8},
    {"q6", 16, 192, -32, 31, 32},
    {"q8", 4, 64, -128, 127, 128},
};
constexpr int kPowersOf3[3] = {1, 3, 9};

// Inputs of one plane of a t5 super block: a super block holds 3 planes, one beside the other in a code.
int64_t t5_plane(int64_t group) { return group ? group : 32; }

// Where the code of (row, col) lies in t5: unit, step within the unit, plane.
struct T5Place {
    int64_t unit, step;
    int plane;
};
T5Place t5_place(int64_t col, int64_t plane_inputs) {
    const int64_t super = col / (3 * plane_inputs), rest = col % (3 * plane_inputs);
    const int64_t step = rest % plane_inputs / kStep;
    return {super * (plane_inputs / 32) + step / 8, step % 8, static_cast<int>(rest / plane_inputs)};
}

}  // namespace

const FormatInfo& info(Format format) { return kFormats[static_cast<int>(format)]; }

Format parse_format(const std::string& name) {
    for (int i = 0; i < kNumFormats; ++i)
        if (name == kFormats[i].name) return static_cast<Format>(i);
    throw std::invalid_argument("unknown format '" + name + "'; known: t2, t5, q4, q6, q8");
}

Matrix::Matrix(Format format, int64_t rows, int64_t cols, int64_t group, LayoutOnly)
    : format(format), rows(rows), cols(cols), group(group) {
    if (rows < 1 || cols < 1)
        throw std::invalid_argument("a matrix needs rows and columns, got " + std::to_string(rows) + " x " + std::to_string(cols));
    const int64_t smallest = format == Format::t5 ? 32 : 16;
    if (group % smallest || group < 0)
        throw std::invalid_argument("groups of " + std::to_string(group) + " inputs: format " + tk::info(format).name +
                                    " needs a multiple of " + std::to_string(smallest));
    if (group && cols % group)
        throw std::invalid_argument("rows of " + std::to_string(cols) + " inputs do not divide into groups of " + std::to_string(group));
    const int64_t multiple = format == Format::t5 ? 3 * t5_plane(group) : group ? group : tk::info(format).unit_inputs;
    padded_cols = round_up(cols, multiple);
    row_blocks = ceil_div(rows, kRowBlock);
    block_bytes = padded_cols / tk::info(format).unit_inputs * tk::info(format).unit_bytes;
    num_groups = group ? padded_cols / group : 0;
}

Matrix::Matrix(Format format, int64_t rows, int64_t cols, int64_t group) : Matrix(format, rows, cols, group, LayoutOnly{}) {
    data.resize(row_blocks * block_bytes);
    row_scales.resize(row_blocks * kRowBlock);
    if (group) group_scales.resize(row_blocks * num_groups * kRowBlock);
}

int64_t Matrix::num_bytes() const {
    return data.size() + row_scales.size() * int64_t{sizeof(float)} + group_scales.size() * int64_t{sizeof(uint16_t)};
}

void Matrix::pack_block(int64_t block, const int8_t* codes) {
    const auto& form = tk::info(format);
    std::vector<uint8_t> lanes(kRowBlock * padded_cols, static_cast<uint8_t>(form.offset));  // [16][padded_cols], unsigned
    for (int64_t r = 0; r < kRowBlock && block * kRowBlock + r < rows; ++r) {
        const int8_t* row = codes + (block * kRowBlock + r) * cols;
        for (int64_t c = 0; c < cols; ++c) lanes[r * padded_cols + c] = static_cast<uint8_t>(row[c] + form.offset);
    }
    uint8_t* out = data.data() + block * block_bytes;
    std::memset(out, 0, block_bytes);
    const int64_t plane = t5_plane(group);
    for (int64_t c = 0; c < padded_cols; c += kStep) {
        const int64_t step = c / kStep;
        const auto place = t5_place(c, plane);
        for (int64_t i = 0; i < kRowBlock * kStep; ++i) {  // i = row * 4 + lane
            const unsigned code = lanes[i / kStep * padded_cols + c + i % kStep];
            switch (format) {
                case Format::t2: out[step / 4 * 64 + i] |= code << (2 * (step % 4)); break;
                case Format::q4: out[step / 2 * 64 + i] |= code << (4 * (step % 2)); break;
                case Format::q8: out[step * 64 + i] = code; break;
                case Format::q6:
                    out[step / 4 * 192 + step % 4 / 2 * 64 + i] |= (code & 15) << (4 * (step % 2));
                    out[step / 4 * 192 + 128 + i] |= (code >> 4) << (2 * (step % 4));
                    break;
                case Format::t5: {
                    if (place.plane) break;  // all three planes of a code are written with the first
                    const uint8_t* lane = &lanes[i / kStep * padded_cols + c + i % kStep];
                    const unsigned code5 = lane[0] + 3 * lane[plane] + 9 * lane[2 * plane];
                    uint8_t* unit = out + place.unit * 320;
                    unit[place.step / 2 * 64 + i] |= (code5 & 15) << (4 * (place.step % 2));
                    unit[256 + place.step * 8 + i / 8] |= (code5 >> 4) << (i % 8);
                    break;
                }
            }
        }
    }
}

int Matrix::code_at(const uint8_t* block, int64_t row, int64_t col) const {
    const int64_t step = col / kStep, i = row * kStep + col % kStep;
    switch (format) {
        case Format::t2: return (block[step / 4 * 64 + i] >> (2 * (step % 4)) & 3) - 1;
        case Format::q4: return (block[step / 2 * 64 + i] >> (4 * (step % 2)) & 15) - 8;
        case Format::q8: return block[step * 64 + i] - 128;
        case Format::q6: {
            const uint8_t* unit = block + step / 4 * 192;
            const int low = unit[step % 4 / 2 * 64 + i] >> (4 * (step % 2)) & 15;
            return (low | (unit[128 + i] >> (2 * (step % 4)) & 3) << 4) - 32;
        }
        case Format::t5: break;
    }
    const auto place = t5_place(col, t5_plane(group));
    const uint8_t* unit = block + place.unit * 320;
    const int low = unit[place.step / 2 * 64 + i] >> (4 * (place.step % 2)) & 15;
    const int code5 = low | (unit[256 + place.step * 8 + i / 8] >> (i % 8) & 1) << 4;
    return code5 / kPowersOf3[place.plane] % 3 - 1;
}

void Matrix::unpack_block(int64_t block, int8_t* codes) const {
    for (int64_t r = 0; r < kRowBlock; ++r)
        for (int64_t c = 0; c < padded_cols; ++c)
            codes[r * padded_cols + c] = static_cast<int8_t>(code_at(data.data() + block * block_bytes, r, c));
}

void Matrix::set_scales(const float* scales) {
    const int64_t given = group ? cols / group : 1;
    for (int64_t row = 0; row < row_blocks * kRowBlock; ++row) {
        if (row >= rows) {
            row_scales[row] = 0;
            for (int64_t g = 0; g < num_groups; ++g)
                group_scales[(row / kRowBlock * num_groups + g) * kRowBlock + row % kRowBlock] = 0;
            continue;
        }
        const float* of_row = scales + row * given;
        float largest = 0;
        for (int64_t g = 0; g < given; ++g) {
            if (!std::isfinite(of_row[g]))
                throw std::invalid_argument("scale of row " + std::to_string(row) + ", group " + std::to_string(g) + " is not finite");
            largest = std::max(largest, std::fabs(of_row[g]));
        }
        if (!group) {
            row_scales[row] = of_row[0];
            continue;
        }
        const float power = largest > 0 ? std::exp2f(std::ilogb(largest)) : 1.0f;  // scales / power lie below 2
        row_scales[row] = power;
        for (int64_t g = 0; g < num_groups; ++g)
            group_scales[(row / kRowBlock * num_groups + g) * kRowBlock + row % kRowBlock] =
                g < given ? float_to_half(of_row[g] / power) : 0;
    }
}

float Matrix::scale(int64_t row, int64_t col_group) const {
    if (!group) return row_scales[row];
    return row_scales[row] * half_to_float(group_scales[(row / kRowBlock * num_groups + col_group) * kRowBlock + row % kRowBlock]);
}

void Matrix::dequantize_row(int64_t row, float* values) const {
    const uint8_t* block = data.data() + row / kRowBlock * block_bytes;
    for (int64_t c = 0; c < cols; ++c)
        values[c] = static_cast<float>(code_at(block, row % kRowBlock, c)) * scale(row, group ? c / group : 0);
}

void check_codes(const Matrix& matrix, const int8_t* codes) {
    const auto& form = info(matrix.format);
    for (int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
        if (codes[i] >= form.low && codes[i] <= form.high) continue;
        throw std::invalid_argument("code " + std::to_string(codes[i]) + " in row " + std::to_string(i / matrix.cols) + ", column " +
                                    std::to_string(i % matrix.cols) + " is outside " + std::to_string(form.low) + ".." +
                                    std::to_string(form.high) + " of format " + form.name);
    }
}

float half_to_float(uint16_t half) {
    const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 0) {
        const float value = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    const uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

uint16_t float_to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = bits >> 16 & 0x8000;
    const float size = std::fabs(value);
    if (!(size < 65520.0f)) return sign | (std::isnan(value) ? 0x7e00 : 0x7c00);
    if (size < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(size * 0x1p24f));
    const uint32_t rounded = (bits & 0x7fffffffu) + 0xfff + (bits >> 13 & 1);
    return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

}  // namespace tk
