#include "attend.h"

#include <algorithm>
#include <limits>

#include "isa.h"

namespace tk {

namespace {

using Part = Attention::Part;

constexpr int64_t kPartsPerThread = 8;  // with fewer, threads would wait for the last
constexpr int64_t kMostKeptBytes = int64_t{16} << 20;

// Memory of one thread.
struct Scratch {
    std::vector<float> queries, block, sofar;
    std::vector<int64_t> visible;
    std::vector<PageView> pages;
};
thread_local Scratch scratch;

// What the parts of a layer have in common. The rows of a part are all heads of its first token, then those of the next.
struct Layer {
    const KvCache& cache;
    int64_t index;
    const Sight& sight;
    const Heads& heads;
    const KernelTable& table = kernels();
    int64_t group = heads.num_heads / cache.num_heads();  // heads that share keys and values
    int64_t width = cache.padded_head_dim();

    int64_t seen_of(const Span& span) const { return sight.visible(span.context + span.num_tokens - 1, span.length); }
    int64_t rows_of(const Span& span) const { return span.num_tokens * group; }
    int64_t softmax_floats(int64_t rows) const { return rows * (width + 2); }
    Softmax softmax_in(float* memory, int64_t rows) const { return {memory, memory + rows * width, memory + rows * (width + 1)}; }

    Part whole(const Span& span, int64_t kv_head, int64_t first_kept) const {
        const int64_t first_seen = sight.window ? std::max(int64_t{0}, span.context + 1 - sight.window) : 0;
        return {&span, kv_head, first_seen / kBlockTokens, ceil_div(seen_of(span), kBlockTokens), first_kept};
    }

    // Calls body(row, offset of its head among the heads of a token, token of the batch) for each row.
    template <typename Body>
    void over_rows(const Part& part, const Body& body) const {
        for (int64_t r = 0; r < rows_of(*part.span); ++r)
            body(r, (part.kv_head * group + r % group) * cache.head_dim(), part.span->first_token + r / group);
    }

    // Pages of `count` blocks of the part; those that the last block lacks are its last page once more.
    void view_pages(const Part& part, int64_t count, PageView* views) const {
        const int64_t last = ceil_div(seen_of(*part.span), kPageTokens) - 1, first = part.first_block * kBlockPages;
        for (int64_t p = first; p < first + count * kBlockPages; ++p) *views++ = cache.view(index, part.span->pages[std::min(p, last)], part.kv_head);
    }

    // following: the part that comes next, whose first block is fetched while the last of this one is multiplied; null: none.
    AttentionJob job(const Part& part, const Part* following) const {
        const Span& span = *part.span;
        const int64_t rows = rows_of(span);
        scratch.queries.assign(rows * width, 0.0f);
        scratch.visible.resize(rows);
        over_rows(part, [&](int64_t r, int64_t head, int64_t token) {
            const float* query = heads.queries + token * heads.query_stride + head;
            for (int64_t d = 0; d < cache.head_dim(); ++d) scratch.queries[r * width + d] = query[d] * heads.scale;
            scratch.visible[r] = sight.visible(span.context + token - span.first_token, span.length);
        });
        scratch.pages.resize((part.last_block + 1) * kBlockPages);
        view_pages(part, part.num_blocks(), scratch.pages.data() + part.first_block * kBlockPages);
        if (following != nullptr) view_pages(*following, 1, scratch.pages.data() + part.last_block * kBlockPages);
        const int64_t num_blocks = part.last_block + (following != nullptr);
        return {cache.type(), scratch.queries.data(), scratch.visible.data(), sight.window, rows, width, scratch.pages.data(), num_blocks};
    }

    // Folds the softmax of each block of the part, block(number), and writes the results of its rows.
    template <typename Block>
    void fold_all(const Part& part, const Block& block) const {
        const int64_t rows = rows_of(*part.span);
        scratch.sofar.resize(softmax_floats(rows));
        const Softmax sofar = softmax_in(scratch.sofar.data(), rows);
        std::fill_n(sofar.totals, rows, 0.0f);
        for (int64_t b = part.first_block; b < part.last_block; ++b) table.fold(block(b), rows, width, sofar);
        over_rows(part, [&](int64_t r, int64_t head, int64_t token) {
            float* out = heads.out + token * heads.out_stride + head;
            const float inverse = 1.0f / sofar.totals[r];
            if (sofar.totals[r] == 0) std::fill_n(out, cache.head_dim(), std::numeric_limits<float>::quiet_NaN());  // no score is a number
            else std::transform(sofar.sums + r * width, sofar.sums + r * width + cache.head_dim(), out, [=](float x) { return x * inverse; });
        });
    }
};

const Part* after(const std::vector<Part>& parts, int64_t i) { return i + 1 < static_cast<int64_t>(parts.size()) ? &parts[i + 1] : nullptr; }

}  // namespace

void Attention::Part::cut(int64_t most_blocks, std::vector<Part>& parts) const {
    const int64_t count = ceil_div(num_blocks(), most_blocks);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t from = num_blocks() * i / count, to = num_blocks() * (i + 1) / count;
        parts.push_back({span, kv_head, first_block + from, first_block + to, first_kept + from});
    }
}

void Attention::run(Pool& pool, const KvCache& cache, int64_t index, const Sight& sight, const std::vector<Span>& spans, const Heads& heads) {
    const Layer layer{cache, index, sight, heads};
    wholes_.clear();
    int64_t num_blocks = 0, most_rows = 0;
    for (const Span& span : spans) {
        most_rows = std::max(most_rows, layer.rows_of(span));
        for (int64_t h = 0; h < cache.num_heads(); ++h) {
            wholes_.push_back(layer.whole(span, h, num_blocks));
            num_blocks += wholes_.back().num_blocks();
        }
    }
    const auto num_wholes = static_cast<int64_t>(wholes_.size()), wanted = kPartsPerThread * pool.num_threads();
    const int64_t floats = layer.softmax_floats(most_rows), kept_bytes = num_blocks * floats * int64_t{sizeof(float)};

    if (num_blocks == num_wholes || num_wholes >= wanted || kept_bytes > kMostKeptBytes) {
        pool.run(num_wholes, [&](int64_t i, int) {
            const AttentionJob job = layer.job(wholes_[i], after(wholes_, i));
            scratch.block.resize(layer.softmax_floats(job.rows));
            const Softmax softmax = layer.softmax_in(scratch.block.data(), job.rows);
            layer.fold_all(wholes_[i], [&](int64_t block) {
                layer.table.attend_block(job, block, softmax);
                return softmax;
            });
        });
        return;
    }
    kept_.resize(num_blocks * floats);
    const auto kept = [&](const Part& part, int64_t block) {
        return layer.softmax_in(kept_.data() + (part.first_kept + block - part.first_block) * floats, layer.rows_of(*part.span));
    };
    parts_.clear();
    for (const Part& whole : wholes_) whole.cut(std::max(int64_t{1}, num_blocks / wanted), parts_);
    pool.run(static_cast<int64_t>(parts_.size()), [&](int64_t i, int) {
        const Part& part = parts_[i];
        const AttentionJob job = layer.job(part, after(parts_, i));
        for (int64_t b = part.first_block; b < part.last_block; ++b) layer.table.attend_block(job, b, kept(part, b));
    });
    pool.run(num_wholes, [&](int64_t i, int) { layer.fold_all(wholes_[i], [&](int64_t block) { return kept(wholes_[i], block); }); });
}

}  // namespace tk
