// Packed weight matrices. The layouts are documented byte by byte in packages/kernels/FORMATS.md.
#pragma once

#include "common.h"

namespace tk {

enum class Format : int {
    t2,  // ternary, 2 bits: 4 weights in 8 bits
    t5,  // ternary, 1.67 bits: 3 weights in 5 bits
    q4,  // -8..7
    q6,  // -32..31
    q8,  // -128..127
    p1,  // complex, one plane of phases 1, i, -1, -i for U and for W: 1 bit a real weight
    p2,  // two planes: 2 bits
};
constexpr int kNumFormats = 7;

struct FormatInfo {
    const char* name;
    int64_t unit_inputs;  // inputs in one unit of a row block
    int64_t unit_bytes;   // bytes of one unit: 16 rows (complex: 16 pairs of rows) x unit_inputs
    int low, high;        // range of codes
    int offset;           // what is added to a code to store it unsigned
};
const FormatInfo& info(Format format);
Format parse_format(const std::string& name);

// Whether activations are rounded as ternary models are trained with: int8, one scale per token.
inline bool is_ternary(Format format) { return format == Format::t2 || format == Format::t5; }

// Whether a matrix is complex, y = U x + W conj(x) of halves of inputs and outputs, U and W sums of planes of phases.
inline bool is_complex(Format format) { return format == Format::p1 || format == Format::p2; }
// Planes of U and of W together, each with a scale of the real and one of the imaginary axis.
constexpr int num_phase_planes(Format format) { return format == Format::p1 ? 2 : 4; }

// [rows, cols] codes with scales. Either one float32 scale per row (group == 0) or one float16 scale per `group`
// inputs of a row, multiplied by a power of two per row that keeps the float16 values in range. With minimums
// (groups of q4, q6, q8 alone) a weight is scale * (code + the format's offset) + minimum of its group.
//
// Complex matrices (p1, p2) have even rows and cols; a row block is 16 pairs of rows, k and k + rows / 2, and inputs are
// padded by halves. They have phases (pack_phases) and scales of planes in place of codes and scales of rows.
struct Matrix {
    Format format = Format::t2;
    int64_t rows = 0, cols = 0, group = 0;
    bool has_minimums = false;
    int64_t row_blocks = 0, padded_cols = 0, block_bytes = 0, num_groups = 0;
    Buffer<uint8_t> data;           // [row_blocks][block_bytes]
    Buffer<float> row_scales;       // [row_blocks * 16]; complex: [planes U, W, U, W][2: real, imaginary axis]
    Buffer<uint16_t> group_scales;  // [row_blocks][planes][num_groups][16], float16; planes: scales, minimums of stored codes

    // Sizes alone; the buffers stay empty.
    struct LayoutOnly {};
    Matrix(Format format, int64_t rows, int64_t cols, int64_t group, bool has_minimums, LayoutOnly);
    Matrix(Format format, int64_t rows, int64_t cols, int64_t group, bool has_minimums = false);
    // The same in memory of its own.
    Matrix copy() const;
    int64_t num_bytes() const;
    // Whether memory of its own is a part of a slab.
    bool is_small() const;
    int64_t num_group_scales() const { return row_blocks * planes() * num_groups * kRowBlock; }
    int64_t num_row_scales() const { return is_complex(format) ? 2 * num_phase_planes(format) : row_blocks * kRowBlock; }
    // Rows that a product writes.
    int64_t padded_rows() const { return is_complex(format) ? round_up(rows, kRowBlock) : row_blocks * kRowBlock; }
    // Inputs that one row of activations has: of complex matrices a token's halves are two rows.
    int64_t row_inputs() const { return is_complex(format) ? cols / 2 : cols; }

    // float16 [num_groups][16] of a row block; a minimum belongs to the code as it is stored, code + offset.
    int64_t planes() const { return has_minimums ? 2 : 1; }
    const uint16_t* scales_of(int64_t block) const { return group_scales.data() + block * planes() * num_groups * kRowBlock; }
    const uint16_t* minimums_of(int64_t block) const { return scales_of(block) + num_groups * kRowBlock; }

    // Packs one block of 16 rows. codes: the whole matrix, row-major, checked with check_codes.
    void pack_block(int64_t block, const int8_t* codes);
    // The same out of the block's own rows [16][cols]; those beyond the matrix are not read.
    void pack_rows(int64_t block, const int8_t* codes);
    // codes: int8 [16][padded_cols], rows beyond the matrix are zero.
    void unpack_block(int64_t block, int8_t* codes) const;
    // Of complex matrices. phases: [planes][rows / 2][cols / 2], 0 .. 3 for 1, i, -1, -i.
    void pack_phases(int64_t block, const uint8_t* phases);
    // phases: [planes][16][padded_cols / 2], those beyond the matrix 0.
    void unpack_phases(int64_t block, uint8_t* phases) const;
    // scales: [rows] or [rows, groups of the unpadded columns], float32; offsets, what is added to code * scale: likewise,
    // where the matrix has minimums. Raises on values that are not finite.
    void set_scales(const float* scales, const float* offsets = nullptr);
    float scale(int64_t row, int64_t col_group) const;
    float offset(int64_t row, int64_t col_group) const;  // the value of code 0; 0 without minimums
    // One row as floats, [cols].
    void dequantize_row(int64_t row, float* values) const;

private:
    std::shared_ptr<uint8_t> slab_;  // where the buffers of a small matrix lie
    template <typename Packed, typename Body>
    void over_units(uint8_t* steps, Packed* packed, const Body& body) const;
    int code_at(const uint8_t* block, int64_t row, int64_t col) const;
    int64_t place_of(int64_t row, int64_t col_group, int64_t plane) const {
        return ((row / kRowBlock * planes() + plane) * num_groups + col_group) * kRowBlock + row % kRowBlock;
    }
};

// Raises std::invalid_argument naming the first code that the matrix's format cannot hold.
void check_codes(const Matrix& matrix, const int8_t* codes);

float half_to_float(uint16_t half);
uint16_t float_to_half(float value);  // nearest, ties to even

}  // namespace tk
