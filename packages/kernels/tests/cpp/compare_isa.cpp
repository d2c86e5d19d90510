// Compares every instruction set that can run here with the scalar reference, without Python: also for cross-compiled
// builds under an emulator. Prints a line per instruction set; returns 1 where a product or a code is not equal to the bit
// or a float kernel is off by more than a rounding or two.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/attention.h"
#include "../../csrc/isa.h"

namespace {

using namespace tk;

std::mt19937 random_bits(1);
int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_bits); }
std::vector<float> normal(int64_t size) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(size);
    for (auto& value : values) value = distribution(random_bits);
    return values;
}

const KernelTable& reference() { return *instruction_sets().front().table; }

enum class Values { random, lowest, highest, mixed_extremes };

int code(Values values, int low, int high) {
    switch (values) {
        case Values::random: return uniform(low, high);
        case Values::lowest: return low;
        case Values::highest: return high;
        default: return uniform(0, 1) ? low : high;
    }
}

Matrix make_matrix(Format format, int64_t rows, int64_t cols, int64_t group, Values values) {
    Matrix matrix(format, rows, cols, group);
    std::vector<int8_t> codes(rows * cols);
    for (auto& c : codes) c = static_cast<int8_t>(code(values, info(format).low, info(format).high));
    std::vector<float> scales = normal(rows * (group ? cols / group : 1));
    matrix.set_scales(scales.data());
    for (int64_t block = 0; block < matrix.row_blocks; ++block) matrix.pack_block(block, codes.data());
    return matrix;
}

struct Inputs {
    std::vector<uint32_t> codes;
    std::vector<int32_t> starts;
    std::vector<float> scales;
    int64_t tokens;

    Inputs(const Matrix& matrix, int64_t tokens, Values values)
        : codes(matrix.padded_cols / kStep * tokens), starts(std::max<int64_t>(matrix.num_groups, 1) * tokens), scales(normal(tokens)), tokens(tokens) {
        const int64_t group = matrix.group ? matrix.group : matrix.padded_cols;
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t c = 0; c < matrix.cols; ++c) {
                const int value = code(values, -128, 127);
                codes[c / kStep * tokens + t] |= static_cast<uint32_t>(value & 255) << (8 * (c % kStep));
                starts[c / group * tokens + t] -= info(matrix.format).offset * value;
            }
    }
    Panel panel() const { return {codes.data(), starts.data(), scales.data(), tokens}; }
};

int64_t differing(const std::vector<float>& a, const std::vector<float>& b) {
    int64_t count = 0;
    for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i];
    return count;
}

double worst(const std::vector<float>& a, const std::vector<float>& b) {
    double largest = 0, size = 1e-30;
    for (size_t i = 0; i < a.size(); ++i) {
        largest = std::max(largest, static_cast<double>(std::fabs(a[i] - b[i])));
        size = std::max(size, static_cast<double>(std::fabs(b[i])));
    }
    return largest / size;
}

int64_t compare_products(const KernelTable& table) {
    struct Shape {
        int64_t cols, group;
    };
    const Shape shapes[] = {{5, 0}, {64, 0}, {96, 0}, {200, 0}, {576, 0}, {1540, 0}, {64, 32}, {576, 64}, {768, 128}, {1536, 512}, {96, 96}};
    int64_t wrong = 0;
    for (int f = 0; f < kNumFormats; ++f)
        for (const auto& shape : shapes) {
            if (is_complex(static_cast<Format>(f))) break;  // compare_phases
            for (const Values values : {Values::random, Values::lowest, Values::highest, Values::mixed_extremes}) {
                const int64_t rows = values == Values::random ? uniform(1, 150) : 70;
                const Matrix matrix = make_matrix(static_cast<Format>(f), rows, shape.cols, shape.group, values);
                for (const int64_t tokens : kTileSizes)
                    for (const Values inputs : {Values::random, Values::lowest, Values::mixed_extremes}) {
                        const Inputs x(matrix, tokens, inputs);
                        const int64_t stride = matrix.row_blocks * kRowBlock;
                        std::vector<float> expected(tokens * stride), found(tokens * stride);
                        reference().matmul[f](matrix, x.panel(), 0, matrix.row_blocks, expected.data(), stride);
                        table.matmul[f](matrix, x.panel(), 0, matrix.row_blocks, found.data(), stride);
                        const int64_t bad = differing(found, expected);
                        if (bad) {
                            std::printf("%s: %lld rows x %lld cols, group %lld, %lld tokens: %lld values differ\n", info(matrix.format).name,
                                        static_cast<long long>(rows), static_cast<long long>(shape.cols), static_cast<long long>(shape.group),
                                        static_cast<long long>(tokens), static_cast<long long>(bad));
                        }
                        wrong += bad;
                    }
            }
        }
    return wrong;
}

// Complex matrices: the halves of a token are two rows of a panel. What lies beyond the rows stays as it was.
int64_t compare_phases(const KernelTable& table) {
    int64_t wrong = 0;
    for (const Format format : {Format::p1, Format::p2})
        for (const int64_t half_cols : {1, 16, 50, 288, 802})
            for (const Values values : {Values::random, Values::lowest, Values::highest, Values::mixed_extremes}) {
                Matrix matrix(format, 2 * uniform(1, 75), 2 * half_cols, 0);
                std::vector<uint8_t> phases(num_phase_planes(format) * (matrix.rows / 2) * half_cols);
                for (auto& phase : phases) phase = static_cast<uint8_t>(code(values, 0, 3));
                const auto scales = normal(matrix.num_row_scales());
                std::copy(scales.begin(), scales.end(), matrix.row_scales.data());
                for (int64_t block = 0; block < matrix.row_blocks; ++block) matrix.pack_phases(block, phases.data());
                for (const int64_t rows : {2, 4, 6, 8}) {
                    const int64_t steps = matrix.padded_cols / 2 / kStep, stride = matrix.padded_rows() + 3;
                    std::vector<uint32_t> codes(steps * rows);
                    std::vector<int32_t> starts(rows);
                    for (int64_t t = 0; t < rows; ++t)
                        for (int64_t c = 0; c < half_cols; ++c) {
                            const int value = code(values, -127, 127);
                            codes[c / kStep * rows + t] |= static_cast<uint32_t>(value & 255) << (8 * (c % kStep));
                            starts[t] -= value;
                        }
                    auto token_scales = normal(rows);
                    for (int64_t t = 0; t < rows; t += 2) token_scales[t + 1] = token_scales[t];
                    const Panel x{codes.data(), starts.data(), token_scales.data(), rows, nullptr, nullptr};
                    std::vector<float> expected(rows / 2 * stride, 7), found(rows / 2 * stride, 7);
                    reference().matmul[static_cast<int>(format)](matrix, x, 0, matrix.row_blocks, expected.data(), stride);
                    table.matmul[static_cast<int>(format)](matrix, x, 0, matrix.row_blocks, found.data(), stride);
                    wrong += differing(found, expected);
                }
            }
    return wrong;
}

int64_t compare_quantization(const KernelTable& table) {
    int64_t wrong = 0;
    for (const int64_t size : {1, 5, 16, 63, 64, 100, 576, 1541}) {
        const auto x = normal(size);
        const int64_t padded = round_up(size, 96), steps = padded / kStep;
        struct Result {
            std::vector<uint32_t> codes, high, low;
            std::vector<int32_t> sums, high_sums, low_sums;
            float inverse, scale;
            bool operator==(const Result&) const = default;
        };
        const auto run = [&](const KernelTable& kernels) {
            Result r{std::vector<uint32_t>(steps * 3), std::vector<uint32_t>(steps * 2), std::vector<uint32_t>(steps * 2),
                     std::vector<int32_t>(padded / 16), std::vector<int32_t>(padded / 16), std::vector<int32_t>(padded / 16), 0, 0};
            r.inverse = kernels.quantize(x.data(), size, padded, r.codes.data() + 1, 3, r.sums.data());
            r.scale = kernels.quantize_wide(x.data(), size, padded, r.high.data(), r.low.data(), 2, r.high_sums.data(), r.low_sums.data());
            return r;
        };
        wrong += !(run(table) == run(reference()));
        std::vector<uint16_t> found(size), expected(size);
        table.to_half(x.data(), size, found.data());
        reference().to_half(x.data(), size, expected.data());
        wrong += found != expected;
    }
    return wrong;
}

// Numbers beyond float16, and kernels that make a number of NaN.
int64_t compare_extremes(const KernelTable& table) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
    int64_t wrong = 0;
    for (const int64_t size : {1, 7, 16, 37}) {
        const std::pair<float, uint16_t> halves[] = {{65504, 0x7bff}, {65520, 0x7bff}, {-7e4f, 0xfbff}, {3e38f, 0x7bff}, {kInf, 0x7bff}, {-kInf, 0xfbff}};
        for (const auto& [value, half] : halves) {
            const std::vector<float> x(size, value);
            std::vector<uint16_t> found(size);
            table.to_half(x.data(), size, found.data());
            wrong += found != std::vector<uint16_t>(size, half);
        }
        const int64_t padded = round_up(size, 16);
        for (const float value : {kNan, -kNan, kInf, -kInf})
            for (int64_t place = 0; place < size; ++place) {
                auto x = normal(size);
                x[place] = value;
                std::vector<uint32_t> codes(padded / kStep, 1), low(padded / kStep, 1);
                std::vector<int32_t> sums(padded / 16, 1), low_sums(padded / 16, 1);
                wrong += !std::isnan(table.quantize(x.data(), size, padded, codes.data(), 1, sums.data()));
                wrong += codes != std::vector<uint32_t>(padded / kStep) || sums != std::vector<int32_t>(padded / 16);
                wrong += !std::isnan(table.quantize_wide(x.data(), size, padded, codes.data(), low.data(), 1, sums.data(), low_sums.data()));
                std::vector<float> out(size), ones(size, 1.0f);
                std::vector<uint16_t> found(size);
                table.rms_norm(x.data(), ones.data(), size, 1e-5f, out.data());
                wrong += !std::all_of(out.begin(), out.end(), [](float y) { return std::isnan(y); });
                if (!std::isnan(value)) continue;
                for (const GatedFn gate : {table.silu_gate, table.relu2_gate, table.gelu_tanh_gate}) {
                    gate(x.data(), ones.data(), size, out.data());
                    wrong += !std::isnan(out[place]);
                }
                table.to_half(x.data(), size, found.data());
                wrong += !std::isnan(half_to_float(found[place]));
            }
    }
    return wrong;
}

double compare_floats(const KernelTable& table) {
    double most = 0;
    for (const int64_t size : {2, 6, 64, 70, 100, 576}) {
        const auto a = normal(size), b = normal(size), cos = normal(size), sin = normal(size);
        const auto both = [&](const auto& run) {
            std::vector<float> found = a, expected = a;
            run(table, found.data());
            run(reference(), expected.data());
            most = std::max(most, worst(found, expected));
        };
        both([&](const KernelTable& k, float* out) { k.rms_norm(a.data(), b.data(), size, 1e-5f, out); });
        both([&](const KernelTable& k, float* out) { k.rope(out, cos.data(), sin.data(), size); });
        both([&](const KernelTable& k, float* out) { k.silu_gate(a.data(), b.data(), size, out); });
        both([&](const KernelTable& k, float* out) { k.relu2_gate(a.data(), b.data(), size, out); });
        both([&](const KernelTable& k, float* out) { k.add(out, b.data(), size); });
        const auto rows = normal(11 * size), factors = normal(11);
        both([&](const KernelTable& k, float* out) { k.combine(factors.data(), rows.data(), 11, size, size, out); });
        both([&](const KernelTable& k, float* out) {
            float products[11];
            k.project(a.data(), rows.data(), 11, size, products);
            std::copy_n(products, std::min<int64_t>(11, size), out);
        });
    }
    return most;
}

// Weights and 8-bit moments of AdamW after a few updates.
int64_t compare_moments(const KernelTable& table) {
    int64_t wrong = 0;
    for (const int64_t size : {1, 5, 16, 100, 256}) {
        struct Result {
            std::vector<float> weights;
            std::vector<uint8_t> first, second;
            bool operator==(const Result&) const = default;
        };
        std::vector<std::vector<float>> grads;
        for (int update = 0; update < 4; ++update) grads.push_back(normal(size));
        const auto weights = normal(size);
        const auto run = [&](const KernelTable& kernels) {
            Result r{weights, std::vector<uint8_t>(size + 1), std::vector<uint8_t>(size + 1)};
            uint32_t seed = 0;
            for (const auto& grad : grads)
                kernels.training.adamw_block({0.999f, 1e-2f, 1e-8f, 0.1f, 0.95f, 0.05f, ++seed}, 0, size, r.weights.data(), grad.data(),
                                             {r.first.data(), r.second.data(), &r.first[size], &r.second[size]});
            return r;
        };
        wrong += !(run(table) == run(reference()));
    }
    return wrong;
}

// Heads turned by angles, and back: bfloat16 by float32 angles, so that every kind of rounding has its part.
int64_t compare_turned(const KernelTable& table) {
    int64_t wrong = 0;
    for (const int64_t size : {2, 6, 64, 70}) {
        const auto cosine = normal(size), sine = normal(size), numbers = normal(3 * size);
        std::vector<uint16_t> heads(3 * size);
        for (int64_t i = 0; i < 3 * size; ++i) heads[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(numbers[i]) >> 16);
        const auto run = [&](const KernelTable& kernels) {
            std::vector<uint16_t> turned(heads), back(heads);
            const Angles angles{cosine.data(), sine.data(), false};
            const auto cast = [](auto& x) { return reinterpret_cast<Bf16*>(x.data()); };
            kernels.training.halves.turn(cast(heads), 3, size, angles, cast(turned));
            kernels.training.halves.turn_backward(cast(turned), 3, size, angles, cast(back));
            turned.insert(turned.end(), back.begin(), back.end());
            return turned;
        };
        wrong += run(table) != run(reference());
    }
    return wrong;
}

// Softmax of two blocks of tokens and their fold, of rows that see some of them.
double compare_attention(const KernelTable& table) {
    constexpr int64_t kHeadDim = 48, kBlocks = 2, kPages = kBlocks * kBlockPages, kRows = 9, kNumbers = kPages * kPageTokens * kHeadDim;
    const auto queries = normal(kRows * kHeadDim), keys = normal(kNumbers), values = normal(kNumbers), scales = normal(kPages * kPageTokens);
    std::vector<uint16_t> half_keys(kNumbers), half_values(kNumbers);
    std::vector<int8_t> int_keys(kNumbers), int_values(kNumbers);
    for (int64_t i = 0; i < kNumbers; ++i) {
        half_keys[i] = float_to_half(keys[i]), half_values[i] = float_to_half(values[i]);
        int_keys[i] = static_cast<int8_t>(uniform(-127, 127)), int_values[i] = static_cast<int8_t>(uniform(-127, 127));
    }
    std::vector<float> small(scales);
    for (auto& scale : small) scale *= 0.01f;
    const int64_t visible[kRows] = {1, 2, 31, 32, 33, 255, 256, 257, 300};
    double most = 0;
    for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::int8}) {
        PageView pages[kPages];
        for (int64_t p = 0; p < kPages; ++p) {
            const int64_t at = p * kPageTokens * kHeadDim;
            pages[p] = {keys.data() + at, values.data() + at, nullptr, nullptr};
            if (type == CacheType::f16) pages[p] = {half_keys.data() + at, half_values.data() + at, nullptr, nullptr};
            if (type == CacheType::int8)
                pages[p] = {int_keys.data() + at, int_values.data() + at, small.data() + p * kPageTokens, small.data() + p * kPageTokens};
        }
        for (const int64_t window : {0, 40}) {
            const AttentionJob job{type, queries.data(), visible, window, kRows, kHeadDim, pages, kBlocks};
            const auto run = [&](const KernelTable& kernels) {
                std::vector<float> block(kRows * (kHeadDim + 2)), all(kRows * (kHeadDim + 2));
                const auto softmax = [&](std::vector<float>& x) { return Softmax{x.data(), &x[kRows * kHeadDim], &x[kRows * (kHeadDim + 1)]}; };
                for (int64_t b = 0; b < kBlocks; ++b) {
                    kernels.attend_block(job, b, softmax(block));
                    kernels.fold(softmax(block), kRows, kHeadDim, softmax(all));
                }
                return all;
            };
            // Behind an int8 cache the last bit of a weight may move its rounding to 16 bits.
            most = std::max(most, worst(run(table), run(reference())) * (type == CacheType::int8 ? 0.02 : 1));
        }
    }
    return most;
}

// Rows that see a key that is NaN, or none but such, have no total; the others are as if it were not there.
int64_t compare_unseen(const KernelTable& table) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    constexpr int64_t kHeadDim = 16, kPages = 8, kRows = 3, kTokens = kPages * kPageTokens;
    const int64_t visible[kRows] = {40, 41, 200};
    const auto queries = normal(kRows * kHeadDim), values = normal(kTokens * kHeadDim), all_keys = normal(kTokens * kHeadDim);
    const auto halves = [](const std::vector<float>& x) {
        std::vector<uint16_t> found(x.size());
        std::transform(x.begin(), x.end(), found.begin(), float_to_half);
        return found;
    };
    const std::vector<int8_t> codes(kTokens * kHeadDim, 3);
    const std::vector<float> scales(kTokens, 0.1f);
    const auto run = [&](CacheType type, int64_t first_nan) {
        auto keys = all_keys, key_scales = scales;
        for (int64_t token = first_nan; token < kTokens; ++token) {
            key_scales[token] = kNan;  // tiles of 16 tokens, a component of all of them side by side
            for (int64_t d = 0; d < kHeadDim; ++d) keys[token / kTileLanes * kTileLanes * kHeadDim + d * kTileLanes + token % kTileLanes] = kNan;
        }
        const auto half_keys = halves(keys), half_values = halves(values);
        PageView pages[kPages];
        for (int64_t p = 0; p < kPages; ++p) {
            const int64_t at = p * kPageTokens * kHeadDim;
            pages[p] = type == CacheType::f32   ? PageView{&keys[at], &values[at], nullptr, nullptr}
                       : type == CacheType::f16 ? PageView{&half_keys[at], &half_values[at], nullptr, nullptr}
                                                : PageView{&codes[at], &codes[at], &key_scales[p * kPageTokens], &scales[p * kPageTokens]};
        }
        std::vector<float> sums(kRows * (kHeadDim + 1)), most(kRows);
        table.attend_block({type, queries.data(), visible, 0, kRows, kHeadDim, pages, 1}, 0, {sums.data(), &sums[kRows * kHeadDim], most.data()});
        return sums;
    };
    int64_t wrong = 0;
    for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::int8})
        for (const int64_t first_nan : {int64_t{40}, int64_t{0}}) {
            const auto before = run(type, kTokens), after = run(type, first_nan);
            for (int64_t row = 0; row < kRows; ++row) {
                const bool sees = visible[row] > first_nan;
                wrong += std::isnan(after[kRows * kHeadDim + row]) != sees;
                wrong += !sees && !std::equal(&after[row * kHeadDim], &after[row * kHeadDim] + kHeadDim, &before[row * kHeadDim]);
            }
        }
    return wrong;
}

}  // namespace

int main(int argc, char** argv) {
    const bool lists = argc > 1 && std::string(argv[1]) == "--list";  // what can run here, and compares nothing
    bool good = true;
    for (const auto& isa : instruction_sets()) {
        if (!isa.available) {
            std::printf("%s: not run, %s\n", isa.name, isa.missing.c_str());
            continue;
        }
        if (lists) {
            std::printf("%s: available\n", isa.name);
            continue;
        }
        const int64_t products = compare_products(*isa.table) + compare_phases(*isa.table), codes = compare_quantization(*isa.table) + compare_moments(*isa.table) + compare_turned(*isa.table);
        const int64_t extremes = compare_extremes(*isa.table) + compare_unseen(*isa.table);
        const double floats = compare_floats(*isa.table), attention = compare_attention(*isa.table);
        std::printf("%s: %lld products and %lld quantizations differ, %lld extremes are wrong; float kernels to %.1e, attention to %.1e of the largest value\n",
                    isa.name, static_cast<long long>(products), static_cast<long long>(codes), static_cast<long long>(extremes), floats, attention);
        good = good && products == 0 && codes == 0 && extremes == 0 && floats < 2e-6 && attention < 2e-6;
    }
    return good ? 0 : 1;
}
