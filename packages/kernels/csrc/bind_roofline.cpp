// Limits of the machine and times of single kernels for benchmarks/roofline.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "roofline.h"
#include "shared_pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tk {
namespace {

template <size_t N>
using Floats = nb::ndarray<const float, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using NewFloats = nb::ndarray<nb::numpy, float>;

void check_positive(const char* name, int64_t value) {
    if (value < 1) throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", not positive");
}

template <typename Work>
Seconds timed(int num_threads, int repeats, const Work& work) {
    check_positive("repeats", repeats);
    Seconds seconds;
    const WithoutGil without_gil;
    with_shared_pool(threads_or_default(num_threads), [&](Pool& pool) { seconds = work(pool); });
    return seconds;
}

// bytes per second
Seconds measure_bandwidth(int64_t bytes, int64_t passes, int num_threads, int repeats) {
    check_positive("bytes", bytes / 256);
    check_positive("passes", passes);
    Seconds rates = timed(num_threads, repeats, [&](Pool& pool) { return time_reads(pool, bytes / 256 * 256, passes, repeats); });
    for (double& rate : rates) rate = static_cast<double>(bytes / 256 * 256 * passes * threads_or_default(num_threads)) / rate;
    return rates;
}

bool is_integer(const std::string& kind) {
    if (kind != "int8" && kind != "float32") throw std::invalid_argument("kind '" + kind + "' is neither int8 nor float32");
    return kind == "int8";
}

// multiply-adds per second
Seconds measure_peak(const std::string& kind, int64_t rounds, int num_threads, int repeats) {
    const bool integers = is_integer(kind);
    check_positive("rounds", rounds);
    Seconds rates = timed(num_threads, repeats, [&](Pool& pool) { return time_peak(pool, integers, rounds, repeats); });
    for (double& rate : rates) rate = static_cast<double>(peak_macs(integers) * rounds * threads_or_default(num_threads)) / rate;
    return rates;
}

Seconds products(const std::vector<std::shared_ptr<Matrix>>& matrices, Floats<2> x, const std::string& precision, int num_threads, int repeats) {
    if (matrices.empty()) throw std::invalid_argument("no matrix given");
    const Precision parsed = parse_precision(precision);
    check_positive("tokens", static_cast<int64_t>(x.shape(0)));
    if (static_cast<int64_t>(x.shape(1)) != matrices.front()->cols)
        throw std::invalid_argument("x has " + std::to_string(x.shape(1)) + " inputs, the matrices " + std::to_string(matrices.front()->cols));
    return timed(num_threads, repeats, [&](Pool& pool) {
        return time_products(pool, matrices, x.data(), static_cast<int64_t>(x.shape(0)), parsed, repeats);
    });
}

NewFloats new_floats(std::initializer_list<size_t> shape) {
    size_t size = 1;
    for (const size_t extent : shape) size *= extent;
    auto* data = new float[size]();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return NewFloats(data, shape, owner);
}

std::pair<NewFloats, Seconds> rows(const std::string& kernel, Floats<2> x, nb::ndarray<const float, nb::c_contig, nb::device::cpu> y,
                                   int num_threads, int repeats) {
    const auto tokens = static_cast<int64_t>(x.shape(0)), size = static_cast<int64_t>(x.shape(1));
    if (static_cast<int64_t>(y.size()) != values_of_y(kernel, tokens, size))
        throw std::invalid_argument("y has " + std::to_string(y.size()) + " values, " + kernel + " needs " +
                                    std::to_string(values_of_y(kernel, tokens, size)));
    NewFloats out = new_floats({x.shape(0), x.shape(1)});
    float* data = out.data();
    return {out, timed(num_threads, repeats, [&](Pool& pool) { return time_rows(pool, kernel, x.data(), y.data(), tokens, size, repeats, data); })};
}

std::pair<NewFloats, Seconds> attention(Floats<3> queries, Floats<3> keys, Floats<3> values, const std::string& cache_type, int64_t window,
                                        int64_t layers, int num_threads, int repeats) {
    const AttentionSize size{.layers = layers,
                             .new_tokens = static_cast<int64_t>(queries.shape(0)),
                             .heads = static_cast<int64_t>(queries.shape(1)),
                             .kv_heads = static_cast<int64_t>(keys.shape(1)),
                             .head_dim = static_cast<int64_t>(queries.shape(2)),
                             .tokens = static_cast<int64_t>(keys.shape(0)),
                             .window = window};
    bool same = size.head_dim == static_cast<int64_t>(keys.shape(2)) && size.new_tokens <= size.tokens;
    for (size_t i = 0; i < 3; ++i) same = same && keys.shape(i) == values.shape(i);
    if (!same || keys.size() == 0 || queries.size() == 0 || size.heads % size.kv_heads)
        throw std::invalid_argument(
            "keys and values must be [tokens, kv heads, head_dim], queries [at most tokens, a multiple of kv heads, head_dim]");
    check_positive("layers", layers);
    if (window < 0) throw std::invalid_argument("a window of " + std::to_string(window) + " tokens");
    const CacheType type = parse_cache_type(cache_type);
    NewFloats out = new_floats({queries.shape(0), queries.shape(1), queries.shape(2)});
    float* data = out.data();
    return {out, timed(num_threads, repeats, [&](Pool& pool) {
                return time_attention(pool, size, queries.data(), keys.data(), values.data(), type, repeats, data);
            })};
}

}  // namespace

void bind_roofline(nb::module_& module) {
    module.def("measure_bandwidth", &measure_bandwidth, "bytes"_a, "passes"_a = 1, "num_threads"_a = 0, "repeats"_a = 5,
               "Bytes per second of reading, of each repeat: every thread reads its own `bytes` `passes` times.");
    module.def("measure_peak", &measure_peak, "kind"_a, "rounds"_a = 1000000, "num_threads"_a = 0, "repeats"_a = 5,
               "Multiply-adds per second on registers alone, of each repeat; kind: int8 or float32. ValueError on the scalar instruction set.");
    module.def("time_products", &products, "matrices"_a, "x"_a, "precision"_a = "int8", "num_threads"_a = 0, "repeats"_a = 5,
               "Seconds of each repeat for x times all matrices, quantization of x not counted.");
    module.def("time_rows", &rows, "kernel"_a, "x"_a, "y"_a, "num_threads"_a = 1, "repeats"_a = 5,
               "Result and seconds of each repeat of rms_norm, rope, silu_gate, relu2_gate or quantize on rows of x; see csrc/roofline.h.");
    module.def("time_attention", &attention, "queries"_a, "keys"_a, "values"_a, "cache_type"_a = "f16", "window"_a = 0, "layers"_a = 1,
               "num_threads"_a = 1, "repeats"_a = 5,
               "Result and seconds of each repeat of the last tokens' attention in all layers, which hold the same keys.");
}

}  // namespace tk
