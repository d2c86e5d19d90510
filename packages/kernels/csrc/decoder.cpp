#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "decoder_checks.h"

namespace tk {

Decoder::Decoder(ModelWeights weights, int64_t num_pages, CacheType cache_type, int num_threads)
    : weights_(checked(std::move(weights))),
      cache_(config().num_layers, config().num_kv_heads, config().head_dim, num_pages, cache_type),
      pool_(num_threads),
      q_size_(config().num_heads * config().head_dim),
      kv_size_(config().num_kv_heads * config().head_dim) {}

void Decoder::lay_out(const Batch& batch) {
    const DecoderConfig& c = config();
    tokens_.clear();
    spans_.clear();
    for (int64_t s = 0; s < batch.num_sequences; ++s) {
        for (int64_t i = batch.starts[s]; i < batch.starts[s + 1]; ++i)
            tokens_.push_back({batch.tokens[i], s, batch.contexts[s] + i - batch.starts[s]});
        const int64_t length = tokens_.back().position + 1;
        for (int64_t i = batch.starts[s]; i < batch.starts[s + 1]; i += kTokensPerSpan)
            spans_.push_back({i, std::min(kTokensPerSpan, batch.starts[s + 1] - i), tokens_[i].position, length, batch.pages + s * batch.pages_stride});
    }
    const int64_t rows = batch.num_tokens + kTokenTile;
    x_.resize(rows * c.hidden_size);
    q_.resize(rows * padded_rows_of(*weights_.layers[0].q));
    k_.resize(rows * padded_rows_of(*weights_.layers[0].k));
    v_.resize(rows * padded_rows_of(*weights_.layers[0].v));
    attention_.resize(rows * q_size_);
    sum_.resize(rows * padded_rows_of(*weights_.layers[0].o));
    gate_.resize(rows * padded_rows_of(*weights_.layers[0].gate));
    up_.resize(rows * padded_rows_of(*weights_.layers[0].up));
    angles_.resize(c.ropes.size());
    for (size_t r = 0; r < c.ropes.size(); ++r) turn(c.ropes[r], angles_[r]);
}

void Decoder::turn(const Rope& rope, Angles& angles) {
    const auto size = static_cast<int64_t>(rope.inverse_frequencies.size()), num_tokens = static_cast<int64_t>(tokens_.size());
    angles.cos.resize(num_tokens * size);
    angles.sin.resize(num_tokens * size);
    for (int64_t t = 0; t < num_tokens; ++t)
        for (int64_t i = 0; i < size; ++i) {
            const float angle = static_cast<float>(tokens_[t].position) * rope.inverse_frequencies[i];
            angles.cos[t * size + i] = std::cos(angle) * rope.attention_factor;
            angles.sin[t * size + i] = std::sin(angle) * rope.attention_factor;
        }
}

void Decoder::embed() {
    const int64_t size = config().hidden_size;
    const float scale = config().embedding_scale;
    pool_.run(static_cast<int64_t>(tokens_.size()), [&](int64_t t, int) {
        float* x = x_.data() + t * size;
        weights_.embedding->dequantize_row(tokens_[t].id, x);
        if (scale != 1)
            for (int64_t i = 0; i < size; ++i) x[i] *= scale;
    });
}

// Quantizes row(token), a pointer to the token's inputs, for all tokens.
template <typename Fill>
void Decoder::fill(int64_t tokens, const std::vector<const Matrix*>& matrices, Precision precision, const Fill& row) {
    constexpr int64_t kTokensPerChunk = 4;
    activations_.prepare(tokens, matrices, precision);
    pool_.run(ceil_div(tokens, kTokensPerChunk), [&](int64_t chunk, int) {
        thread_local std::vector<float> scratch;
        scratch.resize(std::max({config().hidden_size, config().intermediate_size, q_size_}));
        for (int64_t t = chunk * kTokensPerChunk; t < std::min(tokens, (chunk + 1) * kTokensPerChunk); ++t) activations_.set(t, row(t, scratch.data()));
    });
}

// The products of all linears with row(token), which they share.
template <typename Fill>
void Decoder::multiply_all(int64_t tokens, std::initializer_list<Linear> linears, const Fill& row) {
    const int64_t size = linears.begin()->matrix->cols;
    const Precision first = layer_precision(*linears.begin()->matrix);
    const auto is_first = [&](const Linear& linear) { return layer_precision(*linear.matrix) == first; };
    std::vector<Correction> corrections;
    for (const Linear& linear : linears)
        if (linear.correction != nullptr) corrections.push_back({linear.correction, linear.out, padded_rows_of(*linear.matrix)});
    const bool is_one_precision = std::all_of(linears.begin(), linears.end(), is_first);
    const bool is_kept = !corrections.empty() || !is_one_precision;
    const auto multiply_those = [&](Precision precision, const auto& inputs) {
        matrices_.clear();
        products_.clear();
        for (const Linear& linear : linears) {
            if (layer_precision(*linear.matrix) != precision) continue;
            matrices_.push_back(linear.matrix);
            products_.push_back({linear.matrix, linear.out, padded_rows_of(*linear.matrix)});
        }
        fill(tokens, matrices_, precision, inputs);
        multiply(pool_, activations_, products_);
    };
    const auto kept = [&](int64_t t, float*) { return inputs_.data() + t * size; };
    if (is_kept) inputs_.resize(tokens * size);
    multiply_those(first, [&](int64_t t, float* scratch) -> const float* {
        if (!is_kept) return row(t, scratch);
        return static_cast<const float*>(std::memcpy(kept(t, scratch), row(t, scratch), size * sizeof(float)));
    });
    for (const Precision other : {Precision::int8, Precision::groups, Precision::halves})
        if (other != first && std::any_of(linears.begin(), linears.end(), [&](const Linear& linear) { return layer_precision(*linear.matrix) == other; }))
            multiply_those(other, kept);
    if (!corrections.empty()) correct(pool_, inputs_.data(), tokens, corrections, between_);
}

void Decoder::rotate_and_store(const Batch& batch, int64_t index, int64_t t) {
    const DecoderConfig& c = config();
    const LayerWeights& layer = weights_.layers[index];
    const KernelTable& table = kernels();
    const Token& token = tokens_[t];
    float* q = q_.data() + t * padded_rows_of(*layer.q);
    float* k = k_.data() + t * padded_rows_of(*layer.k);
    float* v = v_.data() + t * padded_rows_of(*layer.v);
    const int64_t rope = c.attention[index].rope;
    const int64_t turned = rope < 0 ? 0 : static_cast<int64_t>(c.ropes[rope].inverse_frequencies.size());
    const float* cos = turned ? angles_[rope].cos.data() + t * turned : nullptr;
    const float* sin = turned ? angles_[rope].sin.data() + t * turned : nullptr;
    if (!layer.q_bias.empty()) table.add(q, layer.q_bias.data(), q_size_);
    if (!layer.k_bias.empty()) table.add(k, layer.k_bias.data(), kv_size_);
    if (!layer.v_bias.empty()) table.add(v, layer.v_bias.data(), kv_size_);
    const auto prepare = [&](float* head, const Vector& norm) {
        if (!norm.empty()) table.rms_norm(head, norm.data(), c.head_dim, c.rms_norm_eps, head);
        if (turned) table.rope(head, cos, sin, 2 * turned);
    };
    for (int64_t h = 0; h < c.num_heads; ++h) prepare(q + h * c.head_dim, layer.q_norm);
    const int64_t page = batch.pages[token.sequence * batch.pages_stride + token.position / kPageTokens];
    for (int64_t h = 0; h < c.num_kv_heads; ++h) {
        prepare(k + h * c.head_dim, layer.k_norm);
        cache_.store(index, page, h, token.position % kPageTokens, k + h * c.head_dim, v + h * c.head_dim);
    }
}

void Decoder::attention_block(const Batch& batch, int64_t index) {
    const DecoderConfig& c = config();
    const LayerWeights& layer = weights_.layers[index];
    const KernelTable& table = kernels();
    const auto tokens = static_cast<int64_t>(tokens_.size());
    const std::initializer_list<Linear> qkv{{layer.q.get(), layer.q_correction.get(), q_.data()},
                                            {layer.k.get(), layer.k_correction.get(), k_.data()},
                                            {layer.v.get(), layer.v_correction.get(), v_.data()}};
    multiply_all(tokens, qkv, [&](int64_t t, float* scratch) {
        table.rms_norm(x_.data() + t * c.hidden_size, layer.input_norm.data(), c.hidden_size, c.rms_norm_eps, scratch);
        return scratch;
    });
    constexpr int64_t kTokensPerChunk = 4;
    pool_.run(ceil_div(tokens, kTokensPerChunk), [&](int64_t chunk, int) {
        for (int64_t t = chunk * kTokensPerChunk; t < std::min(tokens, (chunk + 1) * kTokensPerChunk); ++t) rotate_and_store(batch, index, t);
    });
    attend_.run(pool_, cache_, index, {c.block_size, c.attention[index].window}, spans_,
                {c.num_heads, q_.data(), padded_rows_of(*layer.q), c.attention_scale, attention_.data(), q_size_});
    multiply_all(tokens, {{layer.o.get(), layer.o_correction.get(), sum_.data()}}, [&](int64_t t, float* scratch) -> const float* {
        const float* row = attention_.data() + t * q_size_;
        if (layer.attn_sub_norm.empty()) return row;
        table.rms_norm(row, layer.attn_sub_norm.data(), q_size_, c.rms_norm_eps, scratch);
        return scratch;
    });
}

void Decoder::add_sum(int64_t t, const Matrix& matrix, const Vector& bias, const Vector& norm) {
    const DecoderConfig& c = config();
    const KernelTable& table = kernels();
    float* sum = sum_.data() + t * padded_rows_of(matrix);
    if (!bias.empty()) table.add(sum, bias.data(), c.hidden_size);
    if (!norm.empty()) table.rms_norm(sum, norm.data(), c.hidden_size, c.rms_norm_eps, sum);
    table.add(x_.data() + t * c.hidden_size, sum, c.hidden_size);
}

void Decoder::mlp_block(int64_t index) {
    const DecoderConfig& c = config();
    const LayerWeights& layer = weights_.layers[index];
    const KernelTable& table = kernels();
    const auto tokens = static_cast<int64_t>(tokens_.size());
    const int64_t gate_stride = padded_rows_of(*layer.gate);
    const GatedFn gated = c.activation == Activation::silu ? table.silu_gate : c.activation == Activation::relu2 ? table.relu2_gate : table.gelu_tanh_gate;
    const std::initializer_list<Linear> gate_and_up{{layer.gate.get(), layer.gate_correction.get(), gate_.data()},
                                                    {layer.up.get(), layer.up_correction.get(), up_.data()}};
    multiply_all(tokens, gate_and_up, [&](int64_t t, float* scratch) {
        add_sum(t, *layer.o, layer.o_bias, layer.attn_output_norm);
        table.rms_norm(x_.data() + t * c.hidden_size, layer.post_attention_norm.data(), c.hidden_size, c.rms_norm_eps, scratch);
        return scratch;
    });
    multiply_all(tokens, {{layer.down.get(), layer.down_correction.get(), sum_.data()}}, [&](int64_t t, float* scratch) -> const float* {
        float *gate = gate_.data() + t * gate_stride, *up = up_.data() + t * gate_stride;
        if (!layer.gate_bias.empty()) table.add(gate, layer.gate_bias.data(), c.intermediate_size);
        if (!layer.up_bias.empty()) table.add(up, layer.up_bias.data(), c.intermediate_size);
        gated(gate, up, c.intermediate_size, scratch);
        if (!layer.ffn_sub_norm.empty()) table.rms_norm(scratch, layer.ffn_sub_norm.data(), c.intermediate_size, c.rms_norm_eps, scratch);
        return scratch;
    });
    pool_.run(ceil_div(tokens, 64), [&](int64_t chunk, int) {
        for (int64_t t = chunk * 64; t < std::min(tokens, (chunk + 1) * 64); ++t) add_sum(t, *layer.down, layer.down_bias, layer.ffn_output_norm);
    });
}

void Decoder::final_norm(int64_t t, float* out) const {
    const DecoderConfig& c = config();
    kernels().rms_norm(x_.data() + t * c.hidden_size, weights_.final_norm.data(), c.hidden_size, c.rms_norm_eps, out);
}

void Decoder::head(const Batch& batch, const std::optional<Reach>& reach, float* logits) {
    const DecoderConfig& c = config();
    const Matrix& matrix = *weights_.head;
    const int64_t stride = padded_rows_of(matrix), count = batch.num_outputs;
    if (count == 0) return;
    const bool is_screened = reach && weights_.screen != nullptr;
    if (is_screened) inputs_.resize(count * c.hidden_size);
    fill(count, {&matrix}, Precision::wide, [&](int64_t i, float* scratch) {
        float* state = is_screened ? inputs_.data() + i * c.hidden_size : scratch;
        final_norm(batch.outputs[i], state);
        return state;
    });
    if (is_screened && screened_.run(pool_, matrix, *weights_.screen, inputs_.data(), count, activations_, *reach, logits)) return;
    logits_.resize(activations_.padded_rows() * stride);
    multiply(pool_, activations_, {{&matrix, logits_.data(), stride}});
    constexpr int64_t kRowsPerChunk = 4096;
    const int64_t pieces = ceil_div(c.vocab_size, kRowsPerChunk);
    pool_.run(count * pieces, [&](int64_t chunk, int) {
        const int64_t i = chunk / pieces, first = chunk % pieces * kRowsPerChunk;
        gather(activations_, logits_.data() + first, stride, i, logits + i * c.vocab_size + first, std::min(kRowsPerChunk, c.vocab_size - first));
    });
}

void Decoder::forward(const Batch& batch, const std::optional<Reach>& reach, float* logits) {
    check(batch, config(), cache_.num_pages());
    lay_out(batch);
    embed();
    for (int64_t layer = 0; layer < config().num_layers; ++layer) {
        attention_block(batch, layer);
        mlp_block(layer);
    }
    head(batch, reach, logits);
}

void Decoder::hidden_states(const int32_t* rows, int64_t num_rows, float* states) {
    const auto num_tokens = static_cast<int64_t>(tokens_.size());
    for (int64_t i = 0; i < num_rows; ++i)
        if (rows[i] < 0 || rows[i] >= num_tokens)
            throw std::invalid_argument("row " + std::to_string(rows[i]) + " is not one of the " + std::to_string(num_tokens) +
                                        " tokens of the latest forward");
    pool_.run(num_rows, [&](int64_t i, int) { final_norm(rows[i], states + i * config().hidden_size); });
}

}  // namespace tk
