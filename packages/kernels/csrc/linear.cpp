#include "linear.h"

#include <algorithm>
#include <cstring>

namespace tk {

namespace {

// The row blocks of some products, one matrix after the other, in pieces that chunks of equal size are made of. Pieces are as long as
// a kernel's tile (planes of one row block fill the registers); chunks are short, so that a thread which stops costs little, but not
// so short that sharing them costs more than the work.
class Division {
public:
    Division(const std::vector<Product>& products, int64_t tokens, int num_threads)
        : products_(products), piece_blocks_(is_complex(products.front().matrix->format) ? 1 : tokens == 1 ? 2 : 4) {
        constexpr int64_t kChunksPerThread = 12, kSmallestChunk = int64_t{1} << 17;  // multiply-adds
        int64_t work = 0;
        for (const Product& product : products) {
            num_pieces_ += pieces_of(product);
            work += padded_rows_of(*product.matrix) * product.matrix->padded_cols * tokens;
        }
        const int64_t chunks = std::min(work / kSmallestChunk, kChunksPerThread * num_threads);
        num_chunks_ = chunks > 1 ? std::min(num_pieces_, round_up(chunks, num_threads)) : 1;
    }

    int64_t num_chunks() const { return num_chunks_; }

    // Calls body(product, first block, last block) for each product that the chunk has blocks of.
    template <typename Body>
    void over(int64_t chunk, const Body& body) const {
        int64_t first = num_pieces_ * chunk / num_chunks_, last = num_pieces_ * (chunk + 1) / num_chunks_;
        for (auto product = products_.begin(); last > 0; ++product) {
            const int64_t own = pieces_of(*product);
            if (first < own) body(*product, first * piece_blocks_, std::min(std::min(own, last) * piece_blocks_, product->matrix->row_blocks));
            first = std::max(int64_t{0}, first - own);
            last -= own;
        }
    }

private:
    int64_t pieces_of(const Product& product) const { return ceil_div(product.matrix->row_blocks, piece_blocks_); }

    const std::vector<Product>& products_;
    int64_t piece_blocks_, num_pieces_ = 0, num_chunks_;
};

}  // namespace

void multiply(Pool& pool, const Activations& x, const std::vector<Product>& products) {
    const Division division(products, x.tokens(), pool.num_threads());
    const KernelTable& table = kernels();
    pool.run(division.num_chunks(), [&](int64_t chunk, int) {
        division.over(chunk, [&](const Product& product, int64_t first, int64_t last) {
            const Matrix& matrix = *product.matrix;
            for (int64_t tile = 0; tile < x.num_tiles(); ++tile)
                table.matmul[static_cast<int>(matrix.format)](matrix, x.panel(tile, matrix), first, last,
                                                              product.out + x.out_row(tile) * product.stride, product.stride);
        });
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
