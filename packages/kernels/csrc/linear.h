// Matrix products over the threads: y = W x for the tokens of one set of activations.
#pragma once

#include "activations.h"

namespace tk {

struct Product {
    const Matrix* matrix;
    float* out;      // [padded_rows][stride]
    int64_t stride;  // >= rows of the matrix, rounded up to 16
};

inline int64_t padded_rows_of(const Matrix& matrix) { return matrix.padded_rows(); }

// All products of the same activations in one loop. Wide activations leave two rows per token; their sum is the result.
void multiply(Pool& pool, const Activations& x, const std::vector<Product>& products);

// As `multiply`, of some blocks of 16 rows of one matrix; ascending.
void multiply_blocks(Pool& pool, const Activations& x, const Product& product, const std::vector<int32_t>& blocks);

// One token's result out of what `multiply` left at products [padded_rows][stride]: out[rows].
void gather(const Activations& x, const float* products, int64_t stride, int64_t token, float* out, int64_t rows);

// out[tokens][rows] = W x for float inputs [tokens][cols].
void multiply_floats(Pool& pool, const Matrix& matrix, const float* x, int64_t tokens, Precision precision, float* out);

}  // namespace tk
