#include "screen.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "isa.h"

namespace tk {

namespace {

constexpr double kUnit = 0x1p-24;  // largest relative error of one rounding
constexpr double kLongest = 1 + 1e-4;
constexpr float kRoundUp = 1 + 0x1p-20f;  // of norms that are summed in double
constexpr float kNibbleSteps[] = {1.0f, 0.8f, 0.64f, 0.5f, 0.4f};  // of the one that holds the largest weight
constexpr float kSmallest = 1e-30f;  // largest weight of a row that is not taken for zeros

double length(const float* x, int64_t size) {
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) sum += double{x[i]} * x[i];
    return std::sqrt(sum);
}

float largest(const float* x, int64_t size) {
    float most = 0;
    for (int64_t i = 0; i < size; ++i) most = std::max(most, std::fabs(x[i]));
    return most;
}

float nearest(float x) {  // integer, ties to even, as float_kernels.inl rounds
    constexpr float magic = 12582912.0f;
    return (x + magic) - magic;
}

// Of a row that was rounded: its scale, and the lengths of what is left out and of what is kept.
struct Rounded {
    float scale;
    double error, kept;
};

Rounded round_row(const float* row, int64_t size, float scale, float lowest, float highest, int8_t* codes) {
    const float inverse = 1.0f / scale;
    double error = 0, kept = 0;
    for (int64_t i = 0; i < size; ++i) {
        const float code = std::clamp(nearest(row[i] * inverse), lowest, highest), value = code * scale;
        error += (double{row[i]} - value) * (double{row[i]} - value);
        kept += double{value} * value;
        codes[i] = static_cast<int8_t>(code);
    }
    return {scale, std::sqrt(error), std::sqrt(kept)};
}

Rounded round_to_bytes(const float* row, int64_t size, int8_t* codes) {
    const float most = largest(row, size);
    return round_row(row, size, most > kSmallest ? most / 127 : 1, -127, 127, codes);
}

// The squared length of what a step leaves out, nearly: in eight sums that compilers keep in vectors.
float left_out(const float* row, int64_t size, float scale) {
    constexpr int64_t kLanes = 8;
    const float inverse = 1.0f / scale;
    float sums[kLanes] = {};
    for (int64_t i = 0; i + kLanes <= size; i += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const float x = row[i + lane], left = x - std::clamp(nearest(x * inverse), -8.0f, 7.0f) * scale;
            sums[lane] += left * left;
        }
    float total = 0;
    for (const float sum : sums) total += sum;
    return total;
}

// With the best of some steps: large weights are few, and cut off for the sake of the others.
Rounded round_to_nibbles(const float* row, int64_t size, int8_t* codes) {
    const float most = largest(row, size), widest = most > kSmallest ? most / 7.5f : 1;
    float best = widest, least = INFINITY;
    for (const float step : kNibbleSteps) {
        const float error = left_out(row, size, widest * step);
        if (error >= least) continue;
        best = widest * step;
        least = error;
    }
    return round_row(row, size, best, -8, 7, codes);
}

// What roundings of sums can make of a product, as a share of the lengths of row and state: the head's sums over groups
// of 16 inputs at least, the state's split, and the row's products with the directions, in lanes of four numbers at least.
double share_of_sums(int64_t directions, int64_t cols) {
    const auto count = static_cast<double>(directions), size = static_cast<double>(cols), root = std::sqrt(count);
    const double groups = 2 * (size / 16 + 8), split = 2 * (count + 2) * root, products = (size / 4 + 16) * root;
    return kUnit * (groups + split + products + 64);
}

// The length of what is lost when x becomes int8 as Activations makes it.
double lost_in_bytes(const float* x, int64_t size) {
    const float inverse = 127.0f / std::max(largest(x, size), kMinScale), scale = 1.0f / inverse;
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) {
        const double lost = double{x[i]} - double{nearest(x[i] * inverse)} * scale;
        sum += lost * lost;
    }
    return std::sqrt(sum);
}

// The same of 16 bits, at most.
double lost_in_words(const float* x, int64_t size) {
    return 0.51 * std::max(largest(x, size), kMinScale) / (127 * 256) * std::sqrt(static_cast<double>(size));
}

void check_numbers(const float* directions, int64_t count, const float* factors, int64_t cols) {
    for (int64_t i = 0; i < count; ++i)
        if (!(length(directions + i * cols, cols) <= kLongest))
            throw std::invalid_argument("direction " + std::to_string(i) + " of a screen is longer than 1 or not finite");
    for (int64_t i = 0; i < count + cols; ++i)
        if (!(factors[i] > 1e-6f && factors[i] < 1e6f))
            throw std::invalid_argument("factor " + std::to_string(i) + " of a screen is " + std::to_string(factors[i]) +
                                        "; it must lie between 1e-6 and 1e6");
}

// One block of 16 rows of a screen; scales of rows go to near_scales and far_scales.
class BlockPacker {
public:
    BlockPacker(const Matrix& head, Screen& screen, float* near_scales, float* far_scales)
        : head_(head), screen_(screen), near_scales_(near_scales), far_scales_(far_scales) {}

    void pack(int64_t block) const {
        const int64_t count = screen_.num_directions(), cols = screen_.cols();
        std::vector<int8_t> codes(kRowBlock * head_.padded_cols), near(kRowBlock * count), far(kRowBlock * cols);
        std::vector<float> row(cols);
        head_.unpack_block(block, codes.data());
        for (int64_t r = 0; r < kRowBlock && block * kRowBlock + r < head_.rows; ++r) {
            const int64_t group = head_.group ? head_.group : cols;
            for (int64_t start = 0; start < cols; start += group) {
                const float scale = head_.scale(block * kRowBlock + r, start / group);
                for (int64_t i = start; i < start + group; ++i) row[i] = static_cast<float>(codes[r * head_.padded_cols + i]) * scale;
            }
            pack_row(block * kRowBlock + r, row.data(), near.data() + r * count, far.data() + r * cols);
        }
        screen_.near->pack_rows(block, near.data());
        screen_.far->pack_rows(block, far.data());
    }

private:
    void pack_row(int64_t index, float* row, int8_t* near, int8_t* far) const {
        const int64_t count = screen_.num_directions(), cols = screen_.cols(), padded = screen_.padded_rows();
        std::vector<float> products(count);
        const double own = length(row, cols);
        kernels().project(row, screen_.directions.data(), count, cols, products.data());
        for (int64_t i = 0; i < count; ++i) products[i] /= screen_.factors[i];
        for (int64_t i = 0; i < cols; ++i) row[i] /= screen_.factors[count + i];
        const Rounded of_near = round_to_bytes(products.data(), count, near), of_far = round_to_nibbles(row, cols, far);
        near_scales_[index] = of_near.scale;
        far_scales_[index] = of_far.scale;
        float* errors = screen_.errors.data() + index;
        errors[0] = static_cast<float>(of_near.error) * kRoundUp;
        errors[padded] = static_cast<float>(of_far.error) * kRoundUp;
        errors[2 * padded] = static_cast<float>(std::max({own, of_near.kept + of_near.error, of_far.kept + of_far.error})) * kRoundUp;
    }

    const Matrix& head_;
    Screen& screen_;
    float *near_scales_, *far_scales_;
};

}  // namespace

int64_t Screen::num_bytes() const {
    return near->num_bytes() + far->num_bytes() + (directions.size() + factors.size() + errors.size()) * int64_t{sizeof(float)};
}

Screen::Lengths Screen::split(const float* state, float* near_input, float* far_input) const {
    const KernelTable& table = kernels();
    const int64_t count = num_directions(), size = cols();
    table.project(state, directions.data(), count, size, near_input);
    std::vector<float> negative(count);
    for (int64_t i = 0; i < count; ++i) negative[i] = -near_input[i];
    std::memcpy(far_input, state, size * sizeof(float));
    table.combine(negative.data(), directions.data(), count, size, size, far_input);
    const double longest = std::max({length(state, size), length(near_input, count), length(far_input, size)});
    for (int64_t i = 0; i < count; ++i) near_input[i] *= factors[i];
    for (int64_t i = 0; i < size; ++i) far_input[i] *= factors[count + i];
    const double near_length = length(near_input, count), far_length = length(far_input, size);
    const double lost = lost_in_bytes(near_input, count) + lost_in_bytes(far_input, size) + lost_in_words(state, size);
    const double rounded = share_of_sums(count, size) * std::max({longest, near_length, far_length});
    return {static_cast<float>(near_length) * kRoundUp, static_cast<float>(far_length) * kRoundUp, static_cast<float>(lost + rounded) * kRoundUp};
}

std::shared_ptr<Screen> pack_screen(Pool& pool, const Matrix& head, const float* directions, int64_t count, const float* factors) {
    check_numbers(directions, count, factors, head.cols);
    if (head.has_minimums) throw std::invalid_argument("a screen is of a head without minimums, whose sums its bounds know");
    auto screen = std::make_shared<Screen>();
    screen->near = std::make_shared<Matrix>(Format::q8, head.rows, count, 0);
    screen->far = std::make_shared<Matrix>(Format::q4, head.rows, head.cols, 0);
    screen->directions.resize(count * head.cols);
    screen->factors.resize(count + head.cols);
    screen->errors.resize(3 * screen->padded_rows());
    std::memcpy(screen->directions.data(), directions, count * head.cols * sizeof(float));
    std::memcpy(screen->factors.data(), factors, (count + head.cols) * sizeof(float));
    std::memset(screen->errors.data(), 0, 3 * screen->padded_rows() * sizeof(float));
    std::vector<float> near_scales(head.rows), far_scales(head.rows);
    const BlockPacker packer(head, *screen, near_scales.data(), far_scales.data());
    pool.run(head.row_blocks, [&](int64_t block, int) { packer.pack(block); });
    screen->near->set_scales(near_scales.data());
    screen->far->set_scales(far_scales.data());
    return screen;
}

}  // namespace tk
