#include "screened_head.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace tk {

namespace {

constexpr double kWorthwhile = 0.9;  // most of the full head's bytes that a screened step may read: choosing takes time too
constexpr int64_t kLongestPause = 63;
constexpr float kInf = std::numeric_limits<float>::infinity();

}  // namespace

bool ScreenedHead::run(Pool& pool, const Matrix& head, const Screen& screen, const float* states, int64_t count,
                       const Activations& wide, const Reach& reach, float* logits) {
    num_blocks_ = head.row_blocks;
    stride_ = padded_rows_of(head);
    if (std::any_of(reach.counts, reach.counts + count, [&](int32_t n) { return n <= 0 || n >= num_blocks_; })) return false;
    const double cost = static_cast<double>(screen.num_bytes()) / static_cast<double>(head.num_bytes());
    if (cost > kWorthwhile) return false;
    if (left_of_pause_ > 0) {
        --left_of_pause_;
        return false;
    }
    const bool is_bounded = bounds_.find(pool, screen, states, count) && choose(pool, head, wide, reach, count);
    const int64_t left = is_bounded ? num_chosen(count) : num_blocks_;
    if (cost + static_cast<double>(left) / static_cast<double>(num_blocks_) > kWorthwhile) {
        pause_ = std::min(2 * pause_ + 1, kLongestPause);
        left_of_pause_ = pause_;
        return false;
    }
    pause_ /= 2;
    multiply_chosen(pool, head, wide, count);
    give_out(pool, head.rows, count, logits);
    use_.rows += count;
    use_.blocks += left;
    return true;
}

bool ScreenedHead::choose(Pool& pool, const Matrix& head, const Activations& wide, const Reach& reach, int64_t count) {
    products_.resize(wide.padded_rows() * stride_);
    chosen_.assign(count * num_blocks_, 0);
    done_.assign(num_blocks_, 0);
    for (int64_t row = 0; row < count; ++row) choose_first(row, reach.counts[row]);
    multiply_chosen(pool, head, wide, count);
    for (int64_t row = 0; row < count; ++row)
        if (!choose_rest(row, reach.counts[row], reach.depths[row], head.rows)) return false;
    return true;
}

bool ScreenedHead::is_chosen(int64_t block, int64_t count) const {
    for (int64_t row = 0; row < count; ++row)
        if (chosen_[row * num_blocks_ + block]) return true;
    return false;
}

int64_t ScreenedHead::num_chosen(int64_t count) const {
    int64_t total = 0;
    for (int64_t block = 0; block < num_blocks_; ++block) total += is_chosen(block, count);
    return total;
}

// The blocks with the largest products.
void ScreenedHead::choose_first(int64_t row, int64_t count) {
    const float* products = bounds_.peak_products(row);
    uint8_t* chosen = chosen_.data() + row * num_blocks_;
    order_.resize(num_blocks_);
    std::iota(order_.begin(), order_.end(), 0);
    const auto last = order_.begin() + (count - 1);
    std::nth_element(order_.begin(), last, order_.end(), [&](int32_t a, int32_t b) { return products[a] > products[b]; });
    for (int64_t i = 0; i < count; ++i) chosen[order_[i]] = 1;
}

// All blocks whose bounds reach what is needed. False where a logit is not finite.
bool ScreenedHead::choose_rest(int64_t row, int64_t count, float depth, int64_t rows) {
    uint8_t* chosen = chosen_.data() + row * num_blocks_;
    found_.clear();
    for (int64_t block = 0; block < num_blocks_; ++block)
        for (int64_t i = block * kRowBlock; chosen[block] && i < std::min(rows, (block + 1) * kRowBlock); ++i) found_.push_back(logit(row, i));
    if (!std::all_of(found_.begin(), found_.end(), [](float x) { return std::isfinite(x); })) return false;
    const int64_t last = std::min(count, static_cast<int64_t>(found_.size())) - 1;
    std::nth_element(found_.begin(), found_.begin() + last, found_.end(), std::greater<>());
    const float best = *std::max_element(found_.begin(), found_.begin() + last + 1);
    const float deepest = depth > 0 ? best - depth - 1e-5f * std::fabs(best) : best;  // a sampler's own cut is rounded
    const float needed = std::min(found_[last], deepest);
    const float* upper = bounds_.peak_upper(row);
    for (int64_t block = 0; block < num_blocks_; ++block) chosen[block] |= upper[block] >= needed;
    return true;
}

// Those blocks that some row has chosen and that are not there yet.
void ScreenedHead::multiply_chosen(Pool& pool, const Matrix& head, const Activations& wide, int64_t count) {
    order_.clear();
    for (int64_t block = 0; block < num_blocks_; ++block) {
        if (done_[block] || !is_chosen(block, count)) continue;
        order_.push_back(static_cast<int32_t>(block));
        done_[block] = 1;
    }
    multiply_blocks(pool, wide, {&head, products_.data(), stride_}, order_);
}

void ScreenedHead::give_out(Pool& pool, int64_t rows, int64_t count, float* logits) const {
    pool.run(count, [&](int64_t row, int) {
        float* out = logits + row * rows;
        std::fill(out, out + rows, -kInf);
        for (int64_t block = 0; block < num_blocks_; ++block)
            for (int64_t i = block * kRowBlock; chosen_[row * num_blocks_ + block] && i < std::min(rows, (block + 1) * kRowBlock); ++i)
                out[i] = logit(row, i);
    });
}

}  // namespace tk
