// tk.sample: the sampler on numpy arrays. Arguments are checked here, row contents in sampler.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings.h"
#include "sampler.h"

namespace nb = nanobind;

namespace tk {
namespace {

using AnyArray = nb::ndarray<nb::ro>;

template <typename T>
constexpr const char* dtype_name();
template <>
constexpr const char* dtype_name<float>() { return "float32"; }
template <>
constexpr const char* dtype_name<std::int32_t>() { return "int32"; }
template <>
constexpr const char* dtype_name<std::uint32_t>() { return "uint32"; }
template <>
constexpr const char* dtype_name<std::uint64_t>() { return "uint64"; }

std::string shape_text(const AnyArray& array) {
    std::string text = "[";
    for (std::size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
    return text + "]";
}

bool is_contiguous(const AnyArray& array) {
    if (array.size() == 0) return true;
    std::int64_t expected = 1;
    for (std::size_t i = array.ndim(); i-- > 0;) {
        if (array.shape(i) > 1 && array.stride(i) != expected) return false;
        expected *= static_cast<std::int64_t>(array.shape(i));
    }
    return true;
}

// The data of an array of exactly this type and number of dimensions. Raises TypeError or ValueError.
template <typename T>
AnyArray checked(nb::handle object, const std::string& name, std::size_t num_dimensions) {
    AnyArray array;
    if (!nb::try_cast(object, array)) {
        const std::string type = nb::cast<std::string>(nb::str(object.type().attr("__name__")));
        throw nb::type_error((name + ": expected an array of " + dtype_name<T>() + ", got " + type).c_str());
    }
    if (array.device_type() != nb::device::cpu::value) throw nb::value_error((name + ": not in the CPU's memory").c_str());
    if (array.dtype() != nb::dtype<T>() || array.ndim() != num_dimensions) {
        const std::string dtype = nb::cast<std::string>(nb::str(nb::getattr(object, "dtype", nb::str("?"))));
        throw nb::value_error((name + ": expected " + dtype_name<T>() + " with " + std::to_string(num_dimensions) +
                               " dimension(s), got " + dtype + " " + shape_text(array))
                                  .c_str());
    }
    if (!is_contiguous(array)) {
        throw nb::value_error((name + ": not contiguous; pass numpy.ascontiguousarray(" + name + ")").c_str());
    }
    return array;
}

std::string row_count_text(const std::string& name, const char* what, std::size_t num_rows, std::size_t found) {
    return name + ": expected one " + what + " for each of " + std::to_string(num_rows) + " rows, got " +
           std::to_string(found);
}

// One value per row; None stands for `absent` in each.
template <typename T>
class Column {
public:
    Column(nb::handle object, const std::string& name, std::size_t num_rows, T absent = T{}) : absent_(absent) {
        if (object.is_none()) return;
        array_ = checked<T>(object, name, 1);
        if (array_.shape(0) != num_rows) {
            throw nb::value_error(row_count_text(name, "value", num_rows, array_.shape(0)).c_str());
        }
    }
    T operator[](std::size_t row) const {
        return array_.is_valid() ? static_cast<const T*>(array_.data())[row] : absent_;
    }

private:
    AnyArray array_;
    T absent_;
};

// One array per row; None, or None for a row, stands for an empty one.
template <typename T>
class Lists {
public:
    Lists(nb::handle object, const std::string& name, std::size_t num_rows) : arrays_(num_rows) {
        if (object.is_none()) return;
        if (!nb::isinstance<nb::sequence>(object)) {
            throw nb::type_error((name + ": expected a list of " + dtype_name<T>() + " arrays").c_str());
        }
        const std::size_t found = nb::len(object);
        if (found != num_rows) throw nb::value_error(row_count_text(name, "array", num_rows, found).c_str());
        for (std::size_t i = 0; i < num_rows; ++i) {
            const nb::object item = object[i];
            if (!item.is_none()) arrays_[i] = checked<T>(item, name + "[" + std::to_string(i) + "]", 1);
        }
    }
    bool has(std::size_t row) const { return arrays_[row].is_valid(); }
    std::span<const T> operator[](std::size_t row) const {
        if (!has(row)) return {};
        return {static_cast<const T*>(arrays_[row].data()), arrays_[row].shape(0)};
    }

private:
    std::vector<AnyArray> arrays_;
};

// The words of a row's mask; null if it has none.
const std::uint32_t* checked_mask(const Lists<std::uint32_t>& masks, std::size_t row, std::size_t vocab) {
    if (!masks.has(row)) return nullptr;
    const std::size_t expected = (vocab + 31) / 32;
    if (masks[row].size() != expected) {
        throw nb::value_error(("masks[" + std::to_string(row) + "]: expected " + std::to_string(expected) +
                               " words for " + std::to_string(vocab) + " tokens, got " +
                               std::to_string(masks[row].size()))
                                  .c_str());
    }
    return masks[row].data();
}

// A numpy array that owns `values`.
template <typename T>
nb::object to_numpy(std::vector<T> values) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    T* data = owned->data();
    const std::size_t shape[] = {owned->size()};
    nb::capsule owner(owned.release(), [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T>(data, 1, shape, owner));
}

nb::tuple to_python(std::vector<SampleResult>&& results) {
    std::vector<std::int32_t> tokens;
    std::vector<float> logprobs;
    nb::list top_tokens, top_logprobs;
    for (SampleResult& result : results) {
        tokens.push_back(result.token);
        logprobs.push_back(result.logprob);
        top_tokens.append(to_numpy(std::move(result.top_tokens)));
        top_logprobs.append(to_numpy(std::move(result.top_logprobs)));
    }
    return nb::make_tuple(to_numpy(std::move(tokens)), to_numpy(std::move(logprobs)), top_tokens, top_logprobs);
}

nb::tuple sample_arrays(nb::handle logits, nb::handle temperature, nb::handle top_k, nb::handle top_p, nb::handle min_p,
                        nb::handle repetition_penalty, nb::handle history, nb::handle seeds, nb::handle counters,
                        nb::handle num_logprobs, nb::handle masks, nb::handle bias_ids, nb::handle bias_values,
                        nb::handle presence_penalty, nb::handle frequency_penalty, nb::handle answers) {
    const AnyArray values = checked<float>(logits, "logits", 2);
    const std::size_t num_rows = values.shape(0), vocab = values.shape(1);
    const Column<float> temperatures(temperature, "temperature", num_rows), top_ps(top_p, "top_p", num_rows),
        min_ps(min_p, "min_p", num_rows), penalties(repetition_penalty, "repetition_penalty", num_rows);
    const Column<std::int32_t> top_ks(top_k, "top_k", num_rows), reported(num_logprobs, "num_logprobs", num_rows);
    const Column<std::uint64_t> row_seeds(seeds, "seeds", num_rows), row_counters(counters, "counters", num_rows);
    const Column<float> presences(presence_penalty, "presence_penalty", num_rows),
        frequencies(frequency_penalty, "frequency_penalty", num_rows);
    const Lists<std::int32_t> histories(history, "history", num_rows), drawn(answers, "answers", num_rows),
        biased(bias_ids, "bias_ids", num_rows);
    const Lists<float> biases(bias_values, "bias_values", num_rows);
    const Lists<std::uint32_t> words(masks, "masks", num_rows);

    std::vector<SampleRow> rows(num_rows);
    for (std::size_t i = 0; i < num_rows; ++i) {
        rows[i] = {.logits = static_cast<const float*>(values.data()) + i * vocab,
                   .temperature = temperatures[i],
                   .top_k = top_ks[i],
                   .top_p = top_ps[i],
                   .min_p = min_ps[i],
                   .repetition_penalty = penalties[i],
                   .history = histories[i],
                   .presence_penalty = presences[i],
                   .frequency_penalty = frequencies[i],
                   .answer = drawn[i],
                   .bias_ids = biased[i],
                   .bias_values = biases[i],
                   .mask = checked_mask(words, i, vocab),
                   .seed = row_seeds[i],
                   .counter = row_counters[i],
                   .num_logprobs = reported[i]};
    }
    std::vector<SampleResult> results(num_rows);
    {
        const WithoutGil without_gil;
        sample(rows, vocab, results);
    }
    return to_python(std::move(results));
}

}  // namespace

void bind_sampler(nb::module_& module) {
    module.def("sample", &sample_arrays, nb::arg("logits"), nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"),
               nb::arg("min_p"), nb::arg("repetition_penalty"), nb::arg("history"), nb::arg("seeds"),
               nb::arg("counters"), nb::arg("num_logprobs"), nb::kw_only(), nb::arg("masks") = nb::none(),
               nb::arg("bias_ids") = nb::none(), nb::arg("bias_values") = nb::none(),
               nb::arg("presence_penalty") = nb::none(), nb::arg("frequency_penalty") = nb::none(),
               nb::arg("answers") = nb::none(),
               nb::sig("def sample(logits: numpy.ndarray, temperature: numpy.ndarray, top_k: numpy.ndarray, "
                       "top_p: numpy.ndarray, min_p: numpy.ndarray, repetition_penalty: numpy.ndarray, "
                       "history: collections.abc.Sequence[numpy.ndarray], seeds: numpy.ndarray, counters: numpy.ndarray, "
                       "num_logprobs: numpy.ndarray, *, "
                       "masks: collections.abc.Sequence[numpy.ndarray | None] | None = None, "
                       "bias_ids: collections.abc.Sequence[numpy.ndarray | None] | None = None, "
                       "bias_values: collections.abc.Sequence[numpy.ndarray | None] | None = None, "
                       "presence_penalty: numpy.ndarray | None = None, frequency_penalty: numpy.ndarray | None = None, "
                       "answers: collections.abc.Sequence[numpy.ndarray | None] | None = None) -> "
                       "tuple[numpy.ndarray, numpy.ndarray, list[numpy.ndarray], list[numpy.ndarray]]"),
               R"(The next token of each row of logits.

Order: mask, bias, repetition penalty, frequency and presence penalty, temperature (below 1e-5: greedy, the
lowest id of equal logits), top-k, top-p, min-p, draw. The draw depends on (seed, counter) and the row alone.
See csrc/sampler.h.

Args:
    logits: float32 [rows, vocab], not changed; -inf forbids a token.
    temperature, top_p, min_p, repetition_penalty: float32 [rows]; top_p 1, min_p 0 and penalty 1 are off.
    top_k: int32 [rows]; 0 is off.
    history: an int32 array of tokens for each row, for the repetition penalty.
    seeds, counters: uint64 [rows]; the counter is the index of the drawn token in its text.
    num_logprobs: int32 [rows]; how many alternatives to report, -1 for no log-probabilities.
    masks: for each row uint32 [(vocab + 31) // 32], or None; bit i % 32 of word i // 32 is set if token i may
        be drawn (what llguidance and xgrammar write).
    bias_ids, bias_values: for each row int32 and float32 [n], or None; added to the logits of these tokens.
    presence_penalty, frequency_penalty: float32 [rows]; a token that occurs n > 0 times in `answers` loses
        presence + n * frequency.
    answers: for each row an int32 array of the tokens drawn so far, or None.

Returns:
    tokens int32 [rows]; log-probabilities float32 [rows] of these under the raw logits, before mask, bias and
    penalties (NaN where not asked for); and per row the most likely tokens (int32) and their log-probabilities
    (float32), best first.

Raises:
    ValueError: a shape or value is wrong, or a mask leaves no token; the message names it and the row.
    TypeError: an argument is no array.)");
    module.def("sample_uniform", &sample_uniform, nb::arg("seed"), nb::arg("counter"),
               "The number in [0, 1) that the draw of (seed, counter) uses: Philox4x32-10.");
}

}  // namespace tk
