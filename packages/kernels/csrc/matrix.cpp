#include "matrix.h"

#include <algorithm>
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
    {"p1", 32, 128, 0, 3, 1},  // codes are phases; the parts of a phase are -1, 0, 1
    {"p2", 32, 256, 0, 3, 1},
};
constexpr int kPowersOf3[3] = {1, 3, 9};

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSlabs = false;  // it sees the ends of separate memory alone
#else
constexpr bool kSlabs = true;
#endif
constexpr int64_t kSlabBytes = int64_t{32} << 20, kSmallBytes = int64_t{2} << 20;

// Memory for small matrices, side by side in slabs of large pages: out of small pages one thread reads SmolLM2's layers at two thirds
// of the speed. A slab goes with the last of its parts; what is not used of it takes no memory.
std::shared_ptr<uint8_t> slab_part(int64_t bytes) {
    struct Slab {
        std::shared_ptr<Buffer<uint8_t>> memory;
        int64_t used = 0;
    };
    static thread_local Slab slab;  // of one thread, so that nobody waits, and no child of fork finds a lock
    if (slab.memory == nullptr || slab.used + bytes > kSlabBytes) slab = {std::make_shared<Buffer<uint8_t>>(kSlabBytes), 0};
    const int64_t begin = slab.used;
    slab.used += bytes;
    return {slab.memory, slab.memory->data() + begin};
}

// Inputs that one scale of a row may be of: their products of 8 bits add up in 31 bits, also where weights of 2 or 4 bits are
// multiplied in the upper half of their bytes and half of the inputs share a sum (int_avx512.inl).
constexpr int64_t kMostSummed = (int64_t{1} << 17) - 1;

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

// One row block as bytes, step by step: [padded_cols / 4][16 rows][4 inputs]. The packers below take one unit of it
// to one unit of packed bytes, the unpackers back; the loops are over the 64 bytes of a step, so that compilers
// vectorise them. Packers get codes as they are, unpackers give code + offset.
constexpr int64_t kStepBytes = kRowBlock * kStep;

void pack_t2(const uint8_t* steps, uint8_t* out) {
    for (int64_t i = 0; i < kStepBytes; ++i) {
        const auto at = [&](int64_t step) { return static_cast<uint8_t>(steps[step * kStepBytes + i] + 1); };
        out[i] = static_cast<uint8_t>(at(0) | at(1) << 2 | at(2) << 4 | at(3) << 6);
    }
}
void unpack_t2(const uint8_t* packed, uint8_t* steps) {
    for (int64_t step = 0; step < 4; ++step)
        for (int64_t i = 0; i < kStepBytes; ++i) steps[step * kStepBytes + i] = packed[i] >> (2 * step) & 3;
}

// Two steps of 4 bits: also the low halves of q6 and t5.
void pack_nibbles(const uint8_t* steps, uint8_t offset, uint8_t* out) {
    for (int64_t i = 0; i < kStepBytes; ++i) {
        const auto at = [&](int64_t step) { return static_cast<uint8_t>(steps[step * kStepBytes + i] + offset); };
        out[i] = static_cast<uint8_t>((at(0) & 15) | at(1) << 4);
    }
}
void unpack_nibbles(const uint8_t* packed, uint8_t* steps) {
    for (int64_t i = 0; i < kStepBytes; ++i) {
        steps[i] = packed[i] & 15;
        steps[kStepBytes + i] = packed[i] >> 4;
    }
}

void pack_q6(const uint8_t* steps, uint8_t* out) {
    pack_nibbles(steps, 32, out);
    pack_nibbles(steps + 2 * kStepBytes, 32, out + kStepBytes);
    for (int64_t i = 0; i < kStepBytes; ++i) {
        const auto at = [&](int64_t step) { return static_cast<uint8_t>(steps[step * kStepBytes + i] + 32) >> 4; };
        out[2 * kStepBytes + i] = static_cast<uint8_t>(at(0) | at(1) << 2 | at(2) << 4 | at(3) << 6);
    }
}
void unpack_q6(const uint8_t* packed, uint8_t* steps) {
    unpack_nibbles(packed, steps);
    unpack_nibbles(packed + kStepBytes, steps + 2 * kStepBytes);
    for (int64_t step = 0; step < 4; ++step)
        for (int64_t i = 0; i < kStepBytes; ++i) steps[step * kStepBytes + i] |= (packed[2 * kStepBytes + i] >> (2 * step) & 3) << 4;
}

void pack_q8(const uint8_t* steps, uint8_t* out) {
    for (int64_t i = 0; i < kStepBytes; ++i) out[i] = static_cast<uint8_t>(steps[i] + 128);
}

// 8 steps of each of three planes, plane_steps apart.
void pack_t5(const uint8_t* steps, int64_t plane_steps, uint8_t* out) {
    uint8_t codes[8 * kStepBytes];
    const uint8_t *second = steps + plane_steps * kStepBytes, *third = second + plane_steps * kStepBytes;
    for (int64_t i = 0; i < 8 * kStepBytes; ++i) codes[i] = static_cast<uint8_t>(steps[i] + 3 * second[i] + 9 * third[i] + 13);
    for (int64_t pair = 0; pair < 4; ++pair) pack_nibbles(codes + 2 * pair * kStepBytes, 0, out + pair * kStepBytes);
    for (int64_t byte = 0; byte < kStepBytes; ++byte) {
        uint8_t fifth = 0;
        for (int bit = 0; bit < 8; ++bit) fifth |= codes[8 * byte + bit] >> 4 << bit;
        out[4 * kStepBytes + byte] = fifth;
    }
}
void unpack_t5(const uint8_t* packed, int64_t plane_steps, uint8_t* steps) {
    uint8_t codes[8 * kStepBytes];
    for (int64_t pair = 0; pair < 4; ++pair) unpack_nibbles(packed + pair * kStepBytes, codes + 2 * pair * kStepBytes);
    for (int64_t i = 0; i < 8 * kStepBytes; ++i) codes[i] |= (packed[4 * kStepBytes + i / 8] >> (i % 8) & 1) << 4;
    uint8_t *second = steps + plane_steps * kStepBytes, *third = second + plane_steps * kStepBytes;
    for (int64_t i = 0; i < 8 * kStepBytes; ++i) {
        steps[i] = codes[i] % 3;
        second[i] = codes[i] / 3 % 3;
        third[i] = codes[i] / 9;
    }
}

}  // namespace

const FormatInfo& info(Format format) { return kFormats[static_cast<int>(format)]; }

Format parse_format(const std::string& name) {
    for (int i = 0; i < kNumFormats; ++i)
        if (name == kFormats[i].name) return static_cast<Format>(i);
    throw std::invalid_argument("unknown format '" + name + "'; known: t2, t5, q4, q6, q8, p1, p2");
}

Matrix::Matrix(Format format, int64_t rows, int64_t cols, int64_t group, bool has_minimums, LayoutOnly)
    : format(format), rows(rows), cols(cols), group(group), has_minimums(has_minimums) {
    if (rows < 1 || cols < 1)
        throw std::invalid_argument("a matrix needs rows and columns, got " + std::to_string(rows) + " x " + std::to_string(cols));
    const int64_t smallest = format == Format::t5 ? 32 : 16;
    if (group % smallest || group < 0)
        throw std::invalid_argument("groups of " + std::to_string(group) + " inputs: format " + tk::info(format).name +
                                    " needs a multiple of " + std::to_string(smallest));
    if (group && cols % group)
        throw std::invalid_argument("rows of " + std::to_string(cols) + " inputs do not divide into groups of " + std::to_string(group));
    if (const int64_t summed = group ? group : cols; summed > kMostSummed)
        throw std::invalid_argument(std::to_string(summed) + " inputs under one scale: their integer sums hold " + std::to_string(kMostSummed) +
                                    "; give scales for groups of fewer");
    if (is_complex(format) && (rows % 2 || cols % 2 || group))
        throw std::invalid_argument("format " + std::string(tk::info(format).name) + " has halves of rows and of columns and no groups, got " +
                                    std::to_string(rows) + " x " + std::to_string(cols) + " with groups of " + std::to_string(group));
    if (has_minimums && (group == 0 || is_ternary(format)))
        throw std::invalid_argument(std::string("minimums with format ") + tk::info(format).name + " and groups of " + std::to_string(group) +
                                    ": only groups of q4, q6 and q8 have some");
    const int64_t multiple = format == Format::t5 ? 3 * t5_plane(group) : group ? group : tk::info(format).unit_inputs;
    padded_cols = is_complex(format) ? 2 * round_up(cols / 2, multiple / 2) : round_up(cols, multiple);
    row_blocks = ceil_div(is_complex(format) ? rows / 2 : rows, kRowBlock);
    block_bytes = padded_cols / tk::info(format).unit_inputs * tk::info(format).unit_bytes;
    num_groups = group ? padded_cols / group : 0;
}

Matrix::Matrix(Format format, int64_t rows, int64_t cols, int64_t group, bool has_minimums)
    : Matrix(format, rows, cols, group, has_minimums, LayoutOnly{}) {
    const int64_t num_scales = num_row_scales(), scales_at = row_blocks * block_bytes, groups_at = scales_at + num_scales * int64_t{sizeof(float)};
    if (is_small()) {
        slab_ = slab_part(round_up(num_bytes(), 64));
        data = Buffer<uint8_t>::part_of(slab_.get(), scales_at);
        row_scales = Buffer<float>::part_of(slab_.get() + scales_at, num_scales);
        group_scales = Buffer<uint16_t>::part_of(slab_.get() + groups_at, num_group_scales());
        return;
    }
    data.resize(scales_at);
    row_scales.resize(num_scales);
    group_scales.resize(num_group_scales());
}

Matrix Matrix::copy() const {
    Matrix copied(format, rows, cols, group, has_minimums);
    std::memcpy(copied.data.data(), data.data(), data.size());
    std::memcpy(copied.row_scales.data(), row_scales.data(), row_scales.size() * sizeof(float));
    std::copy_n(group_scales.data(), group_scales.size(), copied.group_scales.data());
    return copied;
}

int64_t Matrix::num_bytes() const {
    return row_blocks * block_bytes + num_row_scales() * int64_t{sizeof(float)} + num_group_scales() * int64_t{sizeof(uint16_t)};
}

bool Matrix::is_small() const { return kSlabs && round_up(num_bytes(), 64) < kSmallBytes; }

void Matrix::pack_block(int64_t block, const int8_t* codes) { pack_rows(block, codes + block * kRowBlock * cols); }

void Matrix::pack_rows(int64_t block, const int8_t* codes) {
    std::vector<uint8_t> steps(kRowBlock * padded_cols);  // zero where the matrix is padded
    for (int64_t r = 0; r < kRowBlock && block * kRowBlock + r < rows; ++r) {
        const int8_t* row = codes + r * cols;
        uint8_t* to = steps.data() + r * kStep;
        for (int64_t step = 0; step < cols / kStep; ++step) std::memcpy(to + step * kStepBytes, row + step * kStep, kStep);
        std::memcpy(to + cols / kStep * kStepBytes, row + cols / kStep * kStep, cols % kStep);
    }
    over_units(steps.data(), data.data() + block * block_bytes, [&](uint8_t* from, uint8_t* to) {
        switch (format) {
            case Format::t2: return pack_t2(from, to);
            case Format::t5: return pack_t5(from, t5_plane(group) / kStep, to);
            case Format::q4: return pack_nibbles(from, 8, to);
            case Format::q6: return pack_q6(from, to);
            case Format::q8: return pack_q8(from, to);
            case Format::p1:
            case Format::p2: break;  // pack_phases
        }
    });
}

void Matrix::unpack_block(int64_t block, int8_t* codes) const {
    std::vector<uint8_t> steps(kRowBlock * padded_cols);
    over_units(steps.data(), data.data() + block * block_bytes, [&](uint8_t* to, const uint8_t* from) {
        switch (format) {
            case Format::t2: return unpack_t2(from, to);
            case Format::t5: return unpack_t5(from, t5_plane(group) / kStep, to);
            case Format::q4: return unpack_nibbles(from, to);
            case Format::q6: return unpack_q6(from, to);
            case Format::q8: std::memcpy(to, from, kStepBytes); return;
            case Format::p1:
            case Format::p2: break;  // unpack_phases
        }
    });
    const auto offset = static_cast<uint8_t>(tk::info(format).offset);
    for (auto& code : steps) code = static_cast<uint8_t>(code - offset);
    for (int64_t r = 0; r < kRowBlock; ++r)
        for (int64_t step = 0; step < padded_cols / kStep; ++step)
            std::memcpy(codes + r * padded_cols + step * kStep, steps.data() + step * kStepBytes + r * kStep, kStep);
}

void Matrix::pack_phases(int64_t block, const uint8_t* phases) {
    const int64_t half_rows = rows / 2, half_cols = cols / 2, unit_bytes = tk::info(format).unit_bytes;
    const int64_t first = block * kRowBlock, count = std::min(kRowBlock, half_rows - first);
    uint8_t* packed = data.data() + block * block_bytes;
    std::memset(packed, 0, block_bytes);
    for (int64_t plane = 0; plane < num_phase_planes(format); ++plane)
        for (int64_t r = 0; r < count; ++r) {
            const uint8_t* row = phases + (plane * half_rows + first + r) * half_cols;
            for (int64_t col = 0; col < half_cols; ++col) {
                const int64_t step = col / kStep;
                packed[step / 4 * unit_bytes + plane * kStepBytes + r * kStep + col % kStep] |= static_cast<uint8_t>(row[col] << (2 * (step % 4)));
            }
        }
}

void Matrix::unpack_phases(int64_t block, uint8_t* phases) const {
    const int64_t half_cols = padded_cols / 2, unit_bytes = tk::info(format).unit_bytes;
    const uint8_t* packed = data.data() + block * block_bytes;
    for (int64_t plane = 0; plane < num_phase_planes(format); ++plane)
        for (int64_t r = 0; r < kRowBlock; ++r)
            for (int64_t col = 0; col < half_cols; ++col) {
                const int64_t step = col / kStep;
                *phases++ = packed[step / 4 * unit_bytes + plane * kStepBytes + r * kStep + col % kStep] >> (2 * (step % 4)) & 3;
            }
}

// Calls body(steps, packed) with the beginnings of each unit of a row block.
template <typename Packed, typename Body>
void Matrix::over_units(uint8_t* steps, Packed* packed, const Body& body) const {
    const auto& form = tk::info(format);
    if (format != Format::t5) {
        const int64_t unit_steps = form.unit_inputs / kStep;
        for (int64_t unit = 0; unit < block_bytes / form.unit_bytes; ++unit)
            body(steps + unit * unit_steps * kStepBytes, packed + unit * form.unit_bytes);
        return;
    }
    const int64_t units = t5_plane(group) / 32;  // of a super block
    for (int64_t unit = 0; unit < block_bytes / form.unit_bytes; ++unit)
        body(steps + (unit / units * 3 * units + unit % units) * 8 * kStepBytes, packed + unit * form.unit_bytes);
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
        default: break;  // t5
    }
    const auto place = t5_place(col, t5_plane(group));
    const uint8_t* unit = block + place.unit * 320;
    const int low = unit[place.step / 2 * 64 + i] >> (4 * (place.step % 2)) & 15;
    const int code5 = low | (unit[256 + place.step * 8 + i / 8] >> (i % 8) & 1) << 4;
    return code5 / kPowersOf3[place.plane] % 3 - 1;
}

void Matrix::set_scales(const float* scales, const float* offsets) {
    constexpr float kMinimumRange = 16;  // minimums may be so many times larger than a row's largest scale, as those of 4 bits are
    const int64_t given = group ? cols / group : 1;
    const auto stored_as = static_cast<float>(tk::info(format).offset);
    const auto number = [](const char* what, int64_t row, int64_t g, float value) {
        if (!std::isfinite(value))
            throw std::invalid_argument(std::string(what) + " of row " + std::to_string(row) + ", group " + std::to_string(g) + " is not finite");
        return std::fabs(value);
    };
    for (int64_t row = 0; row < row_blocks * kRowBlock; ++row) {
        if (row >= rows) {
            row_scales[row] = 0;
            for (int64_t g = 0; g < planes() * num_groups; ++g) group_scales[place_of(row, g, 0)] = 0;
            continue;
        }
        const float* of_row = scales + row * given;
        const auto stored_minimum = [&](int64_t g) { return offsets[row * given + g] - stored_as * of_row[g]; };
        float largest = 0;
        for (int64_t g = 0; g < given; ++g) {
            largest = std::max(largest, number("scale", row, g, of_row[g]));
            if (has_minimums) largest = std::max(largest, number("offset", row, g, stored_minimum(g)) / kMinimumRange);
        }
        if (!group) {
            row_scales[row] = of_row[0];
            continue;
        }
        const float power = largest > 0 ? std::exp2f(std::ilogb(largest)) : 1.0f;  // scales / power lie below 2
        row_scales[row] = power;
        for (int64_t g = 0; g < num_groups; ++g) {
            group_scales[place_of(row, g, 0)] = g < given ? float_to_half(of_row[g] / power) : 0;
            if (has_minimums) group_scales[place_of(row, g, 1)] = g < given ? float_to_half(stored_minimum(g) / power) : 0;
        }
    }
}

float Matrix::scale(int64_t row, int64_t col_group) const {
    if (!group) return row_scales[row];
    return row_scales[row] * half_to_float(group_scales[place_of(row, col_group, 0)]);
}

float Matrix::offset(int64_t row, int64_t col_group) const {
    if (!has_minimums) return 0;
    const float stored_as = static_cast<float>(tk::info(format).offset), scale = half_to_float(group_scales[place_of(row, col_group, 0)]);
    return row_scales[row] * std::fma(scale, stored_as, half_to_float(group_scales[place_of(row, col_group, 1)]));
}

void Matrix::dequantize_row(int64_t row, float* values) const {
    const uint8_t* block = data.data() + row / kRowBlock * block_bytes;
    for (int64_t c = 0; c < cols; ++c) {
        const int64_t of_col = group ? c / group : 0;
        values[c] = static_cast<float>(code_at(block, row % kRowBlock, c)) * scale(row, of_col) + offset(row, of_col);
    }
}

void check_codes(const Matrix& matrix, const int8_t* codes) {
    const auto& form = info(matrix.format);
    for (int64_t row = 0; row < matrix.rows; ++row) {
        const int8_t* of_row = codes + row * matrix.cols;
        int8_t lowest = 0, highest = 0;
        for (int64_t col = 0; col < matrix.cols; ++col) {
            lowest = std::min(lowest, of_row[col]);
            highest = std::max(highest, of_row[col]);
        }
        if (lowest >= form.low && highest <= form.high) continue;
        const auto* bad = std::find_if(of_row, of_row + matrix.cols, [&](int code) { return code < form.low || code > form.high; });
        const int64_t col = bad - of_row;
        throw std::invalid_argument("code " + std::to_string(of_row[col]) + " in row " + std::to_string(row) + ", column " +
                                    std::to_string(col) + " is outside " + std::to_string(form.low) + ".." +
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
