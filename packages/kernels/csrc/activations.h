// Quantized inputs of a matrix product: tokens in tiles, laid out as panels (kernels.h).
#pragma once

#include <vector>

#include "isa.h"
#include "pool.h"

namespace tk {

enum class Precision {
    int8,   // one int8 row per token, as BitNet computes
    wide,   // 16 bits as two int8 rows per token (256 * high + low): for the head, whose inputs are not quantized
    groups, // one int8 row per token with a scale for each group of inputs, as llama.cpp computes: for matrices of 4 to 8 bits
    halves, // the halves of a token as two int8 rows of one scale: for complex matrices, as they are trained
};

// What a matrix of a layer is multiplied with.
inline Precision layer_precision(const Matrix& matrix) {
    return is_ternary(matrix.format) ? Precision::int8 : is_complex(matrix.format) ? Precision::halves : Precision::groups;
}

// int8, wide, groups or halves. Raises std::invalid_argument on other names.
Precision parse_precision(const std::string& name);

class Activations {
public:
    // Lays out `tokens` tokens of `size` inputs for the matrices. For `groups`, the matrices' largest groups are those of the
    // inputs. Raises std::invalid_argument where columns differ, groups do not go together or complex matrices are not alone.
    void prepare(int64_t tokens, const std::vector<const Matrix*>& matrices, Precision precision);
    // Quantizes one token; different tokens may be set by different threads.
    void set(int64_t token, const float* x);

    int64_t tokens() const { return tokens_; }
    // Rows that a product writes: tokens (twice for wide), filled up to whole tiles; of halves, half as many.
    int64_t padded_rows() const { return padded_rows_; }
    bool is_wide() const { return precision_ == Precision::wide; }

    int64_t num_tiles() const { return static_cast<int64_t>(tiles_.size()); }
    // The first row that a product writes of a tile.
    int64_t out_row(int64_t tile) const { return precision_ == Precision::halves ? tiles_[tile].row / 2 : tiles_[tile].row; }
    Panel panel(int64_t tile, const Matrix& matrix) const;

private:
    struct Tile {
        int64_t row, size;
    };
    struct Groups {  // what panels say of scale groups of one size, for one offset
        int64_t group, num_groups;
        int offset;
        bool has_minimums;
        Buffer<int32_t> starts;
        Buffer<float> scales, sums;  // empty where panels have none
    };
    const Groups& groups_of(const Matrix& matrix) const;
    void lay_out_groups(const std::vector<const Matrix*>& matrices);
    // scales: of the inputs' groups; null: all 1.
    void set_groups(const Tile& tile, int64_t at, const int32_t* sums16, const float* scales);
    void set_by_groups(int64_t token, const float* x, int32_t* sums16);
    void set_halves(int64_t token, const float* x, int32_t* sums16);
    int64_t rows_per_token() const { return precision_ == Precision::wide || precision_ == Precision::halves ? 2 : 1; }

    int64_t tokens_ = 0, size_ = 0, padded_ = 0, padded_rows_ = 0;  // size_, padded_: inputs of a row
    int64_t group_ = 0;  // inputs that share a scale; 0: all of a token
    Precision precision_ = Precision::int8;
    std::vector<Tile> tiles_;
    std::vector<Groups> groups_;
    Buffer<uint32_t> codes_;
    Buffer<float> scales_;
};

}  // namespace tk
