#include "decoder_checks.h"

#include <algorithm>

namespace tk {

namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

void expect(const std::string& name, const Matrix* matrix, int64_t rows, int64_t cols) {
    if (matrix == nullptr) fail(name + " is missing");
    if (matrix->rows != rows || matrix->cols != cols)
        fail(name + " is " + std::to_string(matrix->rows) + " x " + std::to_string(matrix->cols) + ", the configuration wants " +
             std::to_string(rows) + " x " + std::to_string(cols));
}

// Whose rows are looked up, or multiplied in 16 bits.
void expect_table(const std::string& name, const Matrix* matrix, int64_t rows, int64_t cols) {
    expect(name, matrix, rows, cols);
    if (is_complex(matrix->format)) fail(name + " is complex (" + info(matrix->format).name + "); matrices of layers alone can be");
}

void expect_layer(const std::string& name, const Matrix* matrix, int64_t rows, int64_t cols) {
    expect(name, matrix, rows, cols);
    if (!is_ternary(matrix->format) && !is_complex(matrix->format) && matrix->group == 0)
        fail(name + " is " + info(matrix->format).name + " without groups; a layer's matrix is ternary, complex or has scales of groups");
}

void expect(const std::string& name, const LowRank* pair, const Matrix& matrix) {
    if (pair != nullptr && (pair->rows != matrix.rows || pair->cols != matrix.cols))
        fail(name + " is of a matrix of " + std::to_string(pair->rows) + " x " + std::to_string(pair->cols) + ", this one is " +
             std::to_string(matrix.rows) + " x " + std::to_string(matrix.cols));
}

void expect(const std::string& name, const Vector& vector, int64_t size, bool optional = false) {
    if (optional && vector.empty()) return;
    if (static_cast<int64_t>(vector.size()) != size)
        fail(name + " has " + std::to_string(vector.size()) + " values, the configuration wants " + std::to_string(size));
}

}  // namespace

Activation parse_activation(const std::string& name) {
    if (name == "silu") return Activation::silu;
    if (name == "relu2") return Activation::relu2;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    fail("unknown activation '" + name + "'; known: silu, relu2, gelu_tanh");
}

ModelWeights checked(ModelWeights weights) {
    const DecoderConfig& c = weights.config;
    if (std::min({c.hidden_size, c.intermediate_size, c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim, c.vocab_size, c.context_tokens, c.block_size}) < 1)
        fail("every size of the configuration must be positive");
    if (c.num_heads % c.num_kv_heads) fail(std::to_string(c.num_heads) + " heads do not divide over " + std::to_string(c.num_kv_heads) + " key/value heads");
    if (c.head_dim % 2) fail("head_dim " + std::to_string(c.head_dim) + " is odd: rotary embedding needs pairs");
    if (static_cast<int64_t>(weights.layers.size()) != c.num_layers)
        fail(std::to_string(weights.layers.size()) + " layers given, the configuration wants " + std::to_string(c.num_layers));
    for (const Rope& rope : c.ropes)
        if (static_cast<int64_t>(rope.inverse_frequencies.size()) > c.head_dim / 2)
            fail(std::to_string(rope.inverse_frequencies.size()) + " rotary frequencies are too many for heads of " + std::to_string(c.head_dim));
    if (static_cast<int64_t>(c.attention.size()) != c.num_layers)
        fail("attention is given for " + std::to_string(c.attention.size()) + " layers, the configuration wants " + std::to_string(c.num_layers));
    for (const LayerAttention& layer : c.attention) {
        if (layer.rope < -1 || layer.rope >= static_cast<int64_t>(c.ropes.size())) fail("rope " + std::to_string(layer.rope) + " of a layer does not exist");
        if (layer.window < 0) fail("a window of " + std::to_string(layer.window) + " tokens");
        if (layer.window > 0 && layer.window < c.context_tokens && c.block_size > 1)
            fail("a window of " + std::to_string(layer.window) + " tokens with block diffusion (blocks of " + std::to_string(c.block_size) +
                 "): what such a layer sees is not defined; take a model that sees all tokens");
    }
    expect_table("embedding", weights.embedding.get(), c.vocab_size, c.hidden_size);
    expect_table("head", weights.head.get(), c.vocab_size, c.hidden_size);
    if (const Screen* screen = weights.screen.get(); screen != nullptr && (screen->rows() != c.vocab_size || screen->cols() != c.hidden_size))
        fail("the screen is of a head of " + std::to_string(screen->rows()) + " x " + std::to_string(screen->cols()));
    expect("final_norm", weights.final_norm, c.hidden_size);
    const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
    for (size_t i = 0; i < weights.layers.size(); ++i) {
        const LayerWeights& layer = weights.layers[i];
        const std::string prefix = "layer " + std::to_string(i) + " ";
        expect(prefix + "input_norm", layer.input_norm, c.hidden_size);
        expect(prefix + "post_attention_norm", layer.post_attention_norm, c.hidden_size);
        expect_layer(prefix + "q", layer.q.get(), q, c.hidden_size);
        expect_layer(prefix + "k", layer.k.get(), kv, c.hidden_size);
        expect_layer(prefix + "v", layer.v.get(), kv, c.hidden_size);
        expect_layer(prefix + "o", layer.o.get(), c.hidden_size, q);
        expect_layer(prefix + "gate", layer.gate.get(), c.intermediate_size, c.hidden_size);
        expect_layer(prefix + "up", layer.up.get(), c.intermediate_size, c.hidden_size);
        expect_layer(prefix + "down", layer.down.get(), c.hidden_size, c.intermediate_size);
        expect(prefix + "q_correction", layer.q_correction.get(), *layer.q);
        expect(prefix + "k_correction", layer.k_correction.get(), *layer.k);
        expect(prefix + "v_correction", layer.v_correction.get(), *layer.v);
        expect(prefix + "o_correction", layer.o_correction.get(), *layer.o);
        expect(prefix + "gate_correction", layer.gate_correction.get(), *layer.gate);
        expect(prefix + "up_correction", layer.up_correction.get(), *layer.up);
        expect(prefix + "down_correction", layer.down_correction.get(), *layer.down);
        expect(prefix + "q_bias", layer.q_bias, q, true);
        expect(prefix + "k_bias", layer.k_bias, kv, true);
        expect(prefix + "v_bias", layer.v_bias, kv, true);
        expect(prefix + "o_bias", layer.o_bias, c.hidden_size, true);
        expect(prefix + "gate_bias", layer.gate_bias, c.intermediate_size, true);
        expect(prefix + "up_bias", layer.up_bias, c.intermediate_size, true);
        expect(prefix + "down_bias", layer.down_bias, c.hidden_size, true);
        expect(prefix + "attn_output_norm", layer.attn_output_norm, c.hidden_size, true);
        expect(prefix + "ffn_output_norm", layer.ffn_output_norm, c.hidden_size, true);
        expect(prefix + "q_norm", layer.q_norm, c.head_dim, true);
        expect(prefix + "k_norm", layer.k_norm, c.head_dim, true);
        expect(prefix + "attn_sub_norm", layer.attn_sub_norm, q, true);
        expect(prefix + "ffn_sub_norm", layer.ffn_sub_norm, c.intermediate_size, true);
    }
    return weights;
}

void check(const Batch& batch, const DecoderConfig& c, int64_t num_pages) {
    if (batch.num_tokens < 1 || batch.num_sequences < 1) fail("a batch needs at least one sequence and one token");
    if (batch.starts[0] != 0 || batch.starts[batch.num_sequences] != batch.num_tokens)
        fail("starts must run from 0 to the number of tokens, " + std::to_string(batch.num_tokens));
    for (int64_t i = 0; i < batch.num_tokens; ++i)
        if (batch.tokens[i] < 0 || batch.tokens[i] >= c.vocab_size)
            fail("token " + std::to_string(batch.tokens[i]) + " is outside the vocabulary of " + std::to_string(c.vocab_size));
    for (int64_t s = 0; s < batch.num_sequences; ++s) {
        const int64_t added = int64_t{batch.starts[s + 1]} - batch.starts[s], length = batch.contexts[s] + added;
        if (added < 1) fail("sequence " + std::to_string(s) + " has no new token");
        if (batch.contexts[s] < 0 || length > c.context_tokens)
            fail("sequence " + std::to_string(s) + " would have " + std::to_string(length) + " tokens, the context holds " + std::to_string(c.context_tokens));
        const int64_t needed = ceil_div(length, kPageTokens);
        if (needed > batch.pages_stride)
            fail("sequence " + std::to_string(s) + " needs " + std::to_string(needed) + " pages, " + std::to_string(batch.pages_stride) + " are listed");
        for (int64_t p = 0; p < needed; ++p) {
            const int32_t page = batch.pages[s * batch.pages_stride + p];
            if (page < 0 || page >= num_pages)
                fail("page " + std::to_string(page) + " of sequence " + std::to_string(s) + " does not exist; the cache has " + std::to_string(num_pages));
        }
    }
    for (int64_t i = 0; i < batch.num_outputs; ++i)
        if (batch.outputs[i] < 0 || batch.outputs[i] >= batch.num_tokens)
            fail("output row " + std::to_string(batch.outputs[i]) + " is not one of the " + std::to_string(batch.num_tokens) + " tokens");
}

}  // namespace tk
