// The Python module. Arguments are checked here; threads run without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "arrays.h"
#include "bindings.h"
#include "decoder.h"
#include "shared_pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tk {
namespace {

using Codes = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints1 = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints2 = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

std::shared_ptr<Matrix> pack(Codes codes, Floats scales, const std::string& format, int num_threads, const std::optional<Floats2>& offsets) {
    const auto rows = static_cast<int64_t>(codes.shape(0)), cols = static_cast<int64_t>(codes.shape(1));
    int64_t group = 0;
    std::vector<float> spread;  // one scale for the tensor becomes one per row
    const float* values = scales.data();
    if (scales.ndim() == 0) {
        spread.assign(rows, *values);
        values = spread.data();
    } else if (scales.ndim() > 2 || static_cast<int64_t>(scales.shape(0)) != rows) {
        throw std::invalid_argument("scales must be a scalar, [rows] or [rows, groups] with " + std::to_string(rows) + " rows");
    } else if (scales.ndim() == 2) {
        const auto groups = static_cast<int64_t>(scales.shape(1));
        if (groups < 1 || cols % groups)
            throw std::invalid_argument("rows of " + std::to_string(cols) + " inputs do not divide into " + std::to_string(groups) + " groups");
        group = cols / groups;
    }
    if (offsets && (scales.ndim() != 2 || offsets->shape(0) != scales.shape(0) || offsets->shape(1) != scales.shape(1)))
        throw std::invalid_argument("offsets are " + std::to_string(offsets->shape(0)) + " x " + std::to_string(offsets->shape(1)) +
                                    "; they go with scales [rows, groups] of the same shape");
    if (is_complex(parse_format(format))) throw std::invalid_argument("format " + format + " has phases: pack_phases takes them");
    const WithoutGil without_gil;
    auto matrix = std::make_shared<Matrix>(parse_format(format), rows, cols, group, offsets.has_value());
    matrix->set_scales(values, offsets ? offsets->data() : nullptr);
    check_codes(*matrix, codes.data());
    with_shared_pool(threads_or_default(num_threads), [&](Pool& pool) {
        pool.run(matrix->row_blocks, [&](int64_t block, int) { matrix->pack_block(block, codes.data()); });
    });
    return matrix;
}

void check_is_complex(const Matrix& matrix, bool expected) {
    if (is_complex(matrix.format) != expected)
        throw std::invalid_argument(std::string("a matrix of format ") + info(matrix.format).name +
                                    (expected ? " has codes, not phases: unpack gives them" : " has phases, not codes: unpack_phases gives them"));
}

using Phases = nb::ndarray<const uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Floats3 = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

std::shared_ptr<Matrix> pack_phases(Phases phases, Floats3 scales, int num_threads) {
    const size_t planes = phases.shape(0);
    if ((planes != 1 && planes != 2) || phases.shape(1) != 2)
        throw std::invalid_argument("phases are [1 or 2 planes, 2 (U, W), rows, cols], got [" + std::to_string(planes) + ", " +
                                    std::to_string(phases.shape(1)) + ", ...]");
    if (scales.shape(0) != planes || scales.shape(1) != 2 || scales.shape(2) != 2)
        throw std::invalid_argument("scales are [planes, 2 (U, W), 2 (real, imaginary axis)] of the planes of the phases");
    for (size_t i = 0; i < scales.size(); ++i)
        if (!std::isfinite(scales.data()[i])) throw std::invalid_argument("scale " + std::to_string(i) + " of the planes is not finite");
    const uint8_t* end = phases.data() + phases.size();
    if (const auto* bad = std::find_if(phases.data(), end, [](uint8_t phase) { return phase > 3; }); bad != end)
        throw std::invalid_argument("phase " + std::to_string(*bad) + " is none of 0..3, the powers of i");
    const WithoutGil without_gil;
    auto matrix = std::make_shared<Matrix>(planes == 1 ? Format::p1 : Format::p2, 2 * static_cast<int64_t>(phases.shape(2)),
                                           2 * static_cast<int64_t>(phases.shape(3)), 0);
    std::copy_n(scales.data(), scales.size(), matrix->row_scales.data());
    with_shared_pool(threads_or_default(num_threads), [&](Pool& pool) {
        pool.run(matrix->row_blocks, [&](int64_t block, int) { matrix->pack_phases(block, phases.data()); });
    });
    return matrix;
}

nb::tuple unpack_phases(const Matrix& matrix) {
    check_is_complex(matrix, true);
    const int64_t planes = num_phase_planes(matrix.format), rows = matrix.rows / 2, cols = matrix.cols / 2, padded = matrix.padded_cols / 2;
    const auto count = static_cast<size_t>(planes / 2);
    auto [phases, data] = new_array<uint8_t>({count, size_t{2}, static_cast<size_t>(rows), static_cast<size_t>(cols)});
    auto [scales, scale_data] = new_array<float>({count, size_t{2}, size_t{2}});
    std::copy_n(matrix.row_scales.data(), matrix.row_scales.size(), scale_data);
    std::vector<uint8_t> block(planes * kRowBlock * padded);
    for (int64_t row = 0; row < rows; ++row) {
        if (row % kRowBlock == 0) matrix.unpack_phases(row / kRowBlock, block.data());
        for (int64_t plane = 0; plane < planes; ++plane)
            std::copy_n(block.data() + (plane * kRowBlock + row % kRowBlock) * padded, cols, data + (plane * rows + row) * cols);
    }
    return nb::make_tuple(phases, scales);
}

nb::tuple unpack(const Matrix& matrix) {
    check_is_complex(matrix, false);
    const auto rows = static_cast<size_t>(matrix.rows), cols = static_cast<size_t>(matrix.cols);
    auto [codes, code_data] = new_array<int8_t>({rows, cols});
    const int64_t groups = matrix.group ? matrix.cols / matrix.group : 1;
    auto [scales, scale_data] = new_array<float>({rows, static_cast<size_t>(groups)});
    std::vector<int8_t> block(kRowBlock * matrix.padded_cols);
    for (int64_t row = 0; row < matrix.rows; ++row) {
        if (row % kRowBlock == 0) matrix.unpack_block(row / kRowBlock, block.data());
        std::memcpy(code_data + row * matrix.cols, block.data() + row % kRowBlock * matrix.padded_cols, matrix.cols);
        for (int64_t g = 0; g < groups; ++g) scale_data[row * groups + g] = matrix.scale(row, g);
    }
    return nb::make_tuple(codes, matrix.group ? nb::object(nb::cast(scales)) : nb::cast(scales).attr("reshape")(rows));
}

nb::object offsets(const Matrix& matrix) {
    if (!matrix.has_minimums) return nb::none();
    auto [values, data] = new_array<float>({static_cast<size_t>(matrix.rows), static_cast<size_t>(matrix.cols / matrix.group)});
    for (int64_t row = 0; row < matrix.rows; ++row)
        for (int64_t g = 0; g < matrix.cols / matrix.group; ++g) *data++ = matrix.offset(row, g);
    return nb::cast(values);
}

nb::ndarray<nb::numpy, float> linear(const Matrix& matrix, Floats2 x, const std::string& precision, int num_threads) {
    const auto tokens = static_cast<int64_t>(x.shape(0));
    if (static_cast<int64_t>(x.shape(1)) != matrix.cols)
        throw std::invalid_argument("x has " + std::to_string(x.shape(1)) + " inputs, the matrix " + std::to_string(matrix.cols));
    const Precision parsed = parse_precision(precision);
    auto [out, data] = new_array<float>({x.shape(0), static_cast<size_t>(matrix.rows)});
    if (tokens == 0) return out;
    const WithoutGil without_gil;
    with_shared_pool(threads_or_default(num_threads), [&, data = data](Pool& pool) {
        multiply_floats(pool, matrix, x.data(), tokens, parsed, data);
    });
    return out;
}

Vector vector_of(const std::optional<Floats1>& values) {
    return values ? Vector(values->data(), values->data() + values->size()) : Vector();
}

void new_low_rank(LowRank* pair, Floats2 up, Floats2 down) {
    if (up.shape(1) != down.shape(0) || up.size() == 0 || down.size() == 0)
        throw std::invalid_argument("up [out, rank] and down [rank, in] are " + std::to_string(up.shape(0)) + " x " +
                                    std::to_string(up.shape(1)) + " and " + std::to_string(down.shape(0)) + " x " +
                                    std::to_string(down.shape(1)));
    new (pair) LowRank(up.shape(0), down.shape(1), down.shape(0), up.data(), down.data());
}

class PyDecoder {
public:
    PyDecoder(const ModelWeights& weights, int64_t num_pages, const std::string& cache_type, int num_threads)
        : decoder_(weights, num_pages, parse_cache_type(cache_type), threads_or_default(num_threads)) {}

    nb::ndarray<nb::numpy, float> forward(Ints1 tokens, Ints1 starts, Ints1 contexts, Ints2 pages, Ints1 outputs,
                                          const std::optional<Ints1>& counts, const std::optional<Floats1>& depths) {
        if (counts.has_value() != depths.has_value() || (counts && (counts->size() != outputs.size() || depths->size() != outputs.size())))
            throw std::invalid_argument("a reach has one count and one depth for each of outputs");
        if (starts.size() != contexts.size() + 1 || pages.shape(0) != contexts.size())
            throw std::invalid_argument("starts must have one value more than contexts, pages one row for each of contexts");
        const Batch batch{tokens.data(), starts.data(), contexts.data(), pages.data(), outputs.data(),
                          static_cast<int64_t>(tokens.size()), static_cast<int64_t>(contexts.size()),
                          static_cast<int64_t>(pages.shape(1)), static_cast<int64_t>(outputs.size())};
        auto [logits, data] = new_array<float>({outputs.size(), static_cast<size_t>(decoder_.config().vocab_size)});
        const WithoutGil without_gil;
        const std::lock_guard lock(mutex_);
        decoder_.forward(batch, counts ? std::optional<Reach>({counts->data(), depths->data()}) : std::nullopt, data);
        return logits;
    }

    nb::ndarray<nb::numpy, float> hidden_states(Ints1 rows) {
        auto [states, data] = new_array<float>({rows.size(), static_cast<size_t>(decoder_.config().hidden_size)});
        const WithoutGil without_gil;
        const std::lock_guard lock(mutex_);
        decoder_.hidden_states(rows.data(), static_cast<int64_t>(rows.size()), data);
        return states;
    }

    int64_t num_pages() const { return decoder_.cache().num_pages(); }
    int64_t page_bytes() const { return decoder_.cache().page_bytes(); }
    int num_threads() { return decoder_.pool().num_threads(); }
    nb::tuple screen_use() const { return nb::make_tuple(decoder_.screen_use().rows, decoder_.screen_use().blocks); }

private:
    Decoder decoder_;
    std::mutex mutex_;
};

nb::dict cpu_info() {
    nb::dict others;
    for (const auto& isa : instruction_sets())
        others[isa.name] = isa.available ? "available" : isa.missing;
    nb::dict result;
    result["isa"] = current_isa().name;
    result["instruction_sets"] = others;
    result["num_threads"] = available_cores();
    return result;
}

}  // namespace
}  // namespace tk

NB_MODULE(_native, m) {
    using namespace tk;
    m.attr("PAGE_TOKENS") = kPageTokens;
    m.def("info", &cpu_info);
    m.def("select_isa", &select_isa, "name"_a);

    nb::class_<Matrix>(m, "Matrix")
        .def_ro("rows", &Matrix::rows)
        .def_ro("cols", &Matrix::cols)
        .def_ro("group_size", &Matrix::group)
        .def_ro("has_minimums", &Matrix::has_minimums)
        .def_prop_ro("format", [](const Matrix& matrix) { return info(matrix.format).name; })
        .def_prop_ro("num_bytes", &Matrix::num_bytes)
        .def("unpack", &unpack)
        .def("unpack_phases", &unpack_phases)
        .def("offsets", &offsets)
        .def("linear", &linear, "x"_a, "precision"_a = "int8", "num_threads"_a = 0)
        .def("__repr__", [](const Matrix& matrix) {
            return "Matrix(" + std::string(info(matrix.format).name) + ", " + std::to_string(matrix.rows) + " x " +
                   std::to_string(matrix.cols) + ", group " + std::to_string(matrix.group) + ")";
        });
    m.def("pack", &pack, "codes"_a, "scales"_a, "format"_a, "num_threads"_a = 0, "offsets"_a = nb::none());
    m.def("pack_phases", &pack_phases, "phases"_a, "scales"_a, "num_threads"_a = 0);

    nb::class_<LowRank>(m, "LowRank")
        .def("__init__", &new_low_rank, "up"_a, "down"_a)
        .def_ro("rows", &LowRank::rows)
        .def_ro("cols", &LowRank::cols)
        .def_ro("rank", &LowRank::rank)
        .def_prop_ro("size", [](const LowRank& pair) { return pair.down.size() + pair.up.size(); })
        .def_prop_ro("num_bytes", &LowRank::num_bytes);

    bind_screen(m);
    nb::class_<Rope>(m, "Rope")
        .def("__init__",
             [](Rope* rope, std::vector<float> inverse_frequencies, float attention_factor) {
                 new (rope) Rope{std::move(inverse_frequencies), attention_factor};
             },
             "inverse_frequencies"_a, "attention_factor"_a);
    nb::class_<LayerAttention>(m, "LayerAttention")
        .def("__init__", [](LayerAttention* layer, int64_t rope, int64_t window) { new (layer) LayerAttention{rope, window}; }, "rope"_a, "window"_a);
    nb::class_<DecoderConfig>(m, "DecoderConfig")
        .def("__init__",
             [](DecoderConfig* config, int64_t hidden_size, int64_t intermediate_size, int64_t num_layers, int64_t num_heads,
                int64_t num_kv_heads, int64_t head_dim, int64_t vocab_size, int64_t context_tokens, float rms_norm_eps,
                float attention_scale, float embedding_scale, const std::string& activation, std::vector<Rope> ropes,
                std::vector<LayerAttention> attention, int64_t block_size) {
                 new (config) DecoderConfig{hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size,
                                            context_tokens, rms_norm_eps, attention_scale, embedding_scale, parse_activation(activation),
                                            std::move(ropes), std::move(attention), block_size};
             },
             nb::kw_only(), "hidden_size"_a, "intermediate_size"_a, "num_layers"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "vocab_size"_a,
             "context_tokens"_a, "rms_norm_eps"_a, "attention_scale"_a, "embedding_scale"_a, "activation"_a, "ropes"_a, "attention"_a, "block_size"_a);
    using Optional = std::optional<Floats1>;
    nb::class_<LayerWeights>(m, "LayerWeights")
        .def("__init__",
             [](LayerWeights* layer, Floats1 input_norm, Floats1 post_attention_norm, std::shared_ptr<Matrix> q, std::shared_ptr<Matrix> k,
                std::shared_ptr<Matrix> v, std::shared_ptr<Matrix> o, std::shared_ptr<Matrix> gate, std::shared_ptr<Matrix> up,
                std::shared_ptr<Matrix> down, const Optional& q_bias, const Optional& k_bias, const Optional& v_bias,
                const Optional& o_bias, const Optional& gate_bias, const Optional& up_bias, const Optional& down_bias,
                const Optional& q_norm, const Optional& k_norm, const Optional& attn_sub_norm, const Optional& ffn_sub_norm,
                const Optional& attn_output_norm, const Optional& ffn_output_norm, std::shared_ptr<LowRank> q_correction,
                std::shared_ptr<LowRank> k_correction, std::shared_ptr<LowRank> v_correction, std::shared_ptr<LowRank> o_correction,
                std::shared_ptr<LowRank> gate_correction, std::shared_ptr<LowRank> up_correction,
                std::shared_ptr<LowRank> down_correction) {
                 new (layer) LayerWeights{vector_of(input_norm), vector_of(post_attention_norm), q, k, v, o, gate, up, down,
                                          vector_of(q_bias), vector_of(k_bias), vector_of(v_bias), vector_of(o_bias), vector_of(gate_bias),
                                          vector_of(up_bias), vector_of(down_bias), vector_of(q_norm), vector_of(k_norm),
                                          vector_of(attn_sub_norm), vector_of(ffn_sub_norm), vector_of(attn_output_norm),
                                          vector_of(ffn_output_norm), q_correction, k_correction, v_correction, o_correction,
                                          gate_correction, up_correction, down_correction};
             },
             nb::kw_only(), "input_norm"_a, "post_attention_norm"_a, "q"_a, "k"_a, "v"_a, "o"_a, "gate"_a, "up"_a, "down"_a, "q_bias"_a.none(),
             "k_bias"_a.none(), "v_bias"_a.none(), "o_bias"_a.none(), "gate_bias"_a.none(), "up_bias"_a.none(),
             "down_bias"_a.none(), "q_norm"_a.none(), "k_norm"_a.none(), "attn_sub_norm"_a.none(), "ffn_sub_norm"_a.none(),
             "attn_output_norm"_a.none(), "ffn_output_norm"_a.none(), "q_correction"_a.none(), "k_correction"_a.none(),
             "v_correction"_a.none(), "o_correction"_a.none(), "gate_correction"_a.none(), "up_correction"_a.none(),
             "down_correction"_a.none());
    nb::class_<ModelWeights>(m, "ModelWeights")
        .def("__init__",
             [](ModelWeights* weights, const DecoderConfig& config, std::shared_ptr<Matrix> embedding, std::shared_ptr<Matrix> head,
                std::shared_ptr<Screen> screen, Floats1 final_norm, const std::vector<LayerWeights>& layers) {
                 new (weights) ModelWeights{config, embedding, head, screen, vector_of(final_norm), layers};
             },
             "config"_a, "embedding"_a, "head"_a, "screen"_a.none(), "final_norm"_a, "layers"_a);
    nb::class_<PyDecoder>(m, "Decoder")
        .def(nb::init<const ModelWeights&, int64_t, const std::string&, int>(), "weights"_a, "num_pages"_a, "cache_type"_a, "num_threads"_a)
        .def("forward", &PyDecoder::forward, "tokens"_a, "starts"_a, "contexts"_a, "pages"_a, "outputs"_a, "counts"_a.none(), "depths"_a.none())
        .def_prop_ro("screen_use", &PyDecoder::screen_use)
        .def("hidden_states", &PyDecoder::hidden_states, "rows"_a)
        .def_prop_ro("num_pages", &PyDecoder::num_pages)
        .def_prop_ro("page_bytes", &PyDecoder::page_bytes)
        .def_prop_ro("num_threads", &PyDecoder::num_threads);
    bind_sampler(m);
    bind_ops(m);
    bind_roofline(m);
    bind_training(m);
}
