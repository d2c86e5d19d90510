#include "linear.h"

#include <algorithm>
#include <cstring>

namespace tk {

void multiply(Pool& pool, const Activations& x, const std::vector<Product>& products) {
    // Chunks of whole register tiles: short, so that a thread which stops costs little, but not so short that sharing
    // them costs more than the work.
    constexpr int64_t kBlocksPerTile = 4, kChunksPerThread = 12, kSmallestChunk = int64_t{1} << 17;  // multiply-adds
    int64_t tiles = 0, work = 0;
    const bool has_planes = is_complex(products.front().matrix->format);
    const int64_t blocks_per_tile = has_planes ? 1 : kBlocksPerTile;  // planes fill the registers
    for (const auto& product : products) {
        tiles += ceil_div(product.matrix->row_blocks, blocks_per_tile);
        work += padded_rows_of(*product.matrix) * product.matrix->padded_cols * x.tokens();
    }
    const int64_t most_chunks = std::clamp(work / kSmallestChunk, int64_t{1}, kChunksPerThread * pool.num_threads());
    const int64_t blocks_per_chunk = ceil_div(tiles, most_chunks) * blocks_per_tile;
    int64_t num_chunks = 0;
    for (const auto& product : products) num_chunks += ceil_div(product.matrix->row_blocks, blocks_per_chunk);
    const KernelTable& table = kernels();
    pool.run(num_chunks, [&](int64_t chunk, int) {
        const Product* product = products.data();
        for (; chunk >= ceil_div(product->matrix->row_blocks, blocks_per_chunk); ++product)
            chunk -= ceil_div(product->matrix->row_blocks, blocks_per_chunk);
        const Matrix& matrix = *product->matrix;
        const int64_t first = chunk * blocks_per_chunk, last = std::min(first + blocks_per_chunk, matrix.row_blocks);
        for (int64_t tile = 0; tile < x.num_tiles(); ++tile)
            table.matmul[static_cast<int>(matrix.format)](matrix, x.panel(tile, matrix), first, last,
                                                          product->out + x.out_row(tile) * product->stride, product->stride);
    });
}

void multiply_blocks(Pool& pool, const Activations& x, const Product& product, const std::vector<int32_t>& blocks) {
    constexpr int64_t kBlocksPerChunk = 16;
    const Matrix& matrix = *product.matrix;
    const MatmulFn matmul = kernels().matmul[static_cast<int>(matrix.format)];
    const auto count = static_cast<int64_t>(blocks.size());
    pool.run(ceil_div(count, kBlocksPerChunk), [&](int64_t chunk, int) {
        const int64_t end = std::min(count, (chunk + 1) * kBlocksPerChunk);
        for (int64_t i = chunk * kBlocksPerChunk, next; i < end; i = next) {
            for (next = i + 1; next < end && blocks[next] == blocks[next - 1] + 1;) ++next;  // neighbours together
            for (int64_t tile = 0; tile < x.num_tiles(); ++tile)
                matmul(matrix, x.panel(tile, matrix), blocks[i], blocks[next - 1] + 1, product.out + x.out_row(tile) * product.stride,
                       product.stride);
        }
    });
}

void gather(const Activations& x, const float* products, int64_t stride, int64_t token, float* out, int64_t rows) {
    const int64_t halves = x.is_wide() ? 2 : 1;
    std::memcpy(out, products + halves * token * stride, rows * sizeof(float));
    if (halves == 2) kernels().add(out, products + (2 * token + 1) * stride, rows);
}

void multiply_floats(Pool& pool, const Matrix& matrix, const float* x, int64_t tokens, Precision precision, float* out) {
    Activations activations;
    activations.prepare(tokens, {&matrix}, precision);
    pool.run(tokens, [&](int64_t t, int) { activations.set(t, x + t * matrix.cols); });
    const int64_t stride = padded_rows_of(matrix);
    Buffer<float> padded(activations.padded_rows() * stride);
    multiply(pool, activations, {{&matrix, padded.data(), stride}});
    for (int64_t t = 0; t < tokens; ++t) gather(activations, padded.data(), stride, t, out + t * matrix.rows, matrix.rows);
}

}  // namespace tk
