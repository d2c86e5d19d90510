// A decoder-only transformer on packed matrices: the Llama block with biases, QK-norm, SubLN, norms of what the two halves
// of a block add (Gemma), windows and rotary positions by layer. What a family has is data (wf_formats.families).
//
// One call runs several sequences, each with some new tokens: a prompt's chunk or one generated token. Per layer:
//   x -> RMSNorm -> int8 -> q, k, v -> (bias, QK-norm, RoPE) -> cache -> attention -> (SubLN) -> int8 -> o -> (bias, norm) + x
//   x -> RMSNorm -> int8 -> gate, up -> (bias) act(gate) * up -> (SubLN) -> int8 -> down -> (bias, norm) + x
// A matrix may have a low-rank correction, of its inputs before they become int8 (low_rank.h).
// Then the final norm and, for the rows that are asked for, the head in 16-bit activations.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "attend.h"
#include "kv_cache.h"
#include "linear.h"
#include "low_rank.h"
#include "screened_head.h"

namespace tk {

using Vector = std::vector<float>;

// Rotary positions: frequency i turns elements i and i + n of the first 2 n elements of a head, n = number of frequencies.
struct Rope {
    Vector inverse_frequencies;  // at most head_dim / 2
    float attention_factor;      // multiplies cosine and sine
};

struct LayerAttention {
    int64_t rope;    // index into DecoderConfig::ropes; -1: positions are not encoded
    int64_t window;  // tokens that a token sees, itself included; 0: all
};

enum class Activation { silu, relu2, gelu_tanh };

// Raises std::invalid_argument on other names.
Activation parse_activation(const std::string& name);

struct DecoderConfig {
    int64_t hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size, context_tokens;
    float rms_norm_eps, attention_scale, embedding_scale;
    Activation activation;
    std::vector<Rope> ropes;
    std::vector<LayerAttention> attention;  // [num_layers]
    int64_t block_size;  // tokens of a sequence that see each other, those after them too; 1: each sees those before it
};

using MatrixPtr = std::shared_ptr<const Matrix>;
using LowRankPtr = std::shared_ptr<const LowRank>;

struct LayerWeights {
    Vector input_norm, post_attention_norm;
    MatrixPtr q, k, v, o, gate, up, down;
    // empty where the model has none
    Vector q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias, q_norm, k_norm, attn_sub_norm, ffn_sub_norm;
    Vector attn_output_norm, ffn_output_norm;  // of what is added to x
    LowRankPtr q_correction, k_correction, v_correction, o_correction, gate_correction, up_correction, down_correction;
};

struct ModelWeights {
    DecoderConfig config;
    MatrixPtr embedding, head;
    std::shared_ptr<const Screen> screen;  // of the head; null: none
    Vector final_norm;
    std::vector<LayerWeights> layers;
};

// New tokens of several sequences (see Decoder.forward in Python).
struct Batch {
    const int32_t* tokens;    // [num_tokens]
    const int32_t* starts;    // [num_sequences + 1]
    const int32_t* contexts;  // [num_sequences]
    const int32_t* pages;     // [num_sequences][pages_stride]
    const int32_t* outputs;   // [num_outputs]
    int64_t num_tokens, num_sequences, pages_stride, num_outputs;
};

class Decoder {
public:
    // Raises std::invalid_argument where shapes do not fit the configuration.
    Decoder(ModelWeights weights, int64_t num_pages, CacheType cache_type, int num_threads);

    // logits: [num_outputs][vocab_size]; with `reach`, those that it leaves out may be -inf. Raises std::invalid_argument on
    // ids, positions or pages out of range; then nothing was computed.
    void forward(const Batch& batch, const std::optional<Reach>& reach, float* logits);

    // Hidden states after the final norm, what the head multiplies, of rows of the latest forward's tokens.
    // states: [num_rows][hidden_size]. Raises std::invalid_argument on a row that it did not have.
    void hidden_states(const int32_t* rows, int64_t num_rows, float* states);

    const DecoderConfig& config() const { return weights_.config; }
    const KvCache& cache() const { return cache_; }
    const ScreenedHead::Use& screen_use() const { return screened_.use(); }
    Pool& pool() { return pool_; }

private:
    struct Token {
        int32_t id;
        int64_t sequence, position;
    };
    // Cosines and sines of one Rope.
    struct Angles {
        Buffer<float> cos, sin;  // [tokens][number of frequencies]
    };

    void lay_out(const Batch& batch);
    void turn(const Rope& rope, Angles& angles);
    void embed();
    void attention_block(const Batch& batch, int64_t layer);
    void mlp_block(int64_t layer);
    void rotate_and_store(const Batch& batch, int64_t layer, int64_t token);
    // Adds what the attention or the feed-forward part left in sum_ to x.
    void add_sum(int64_t token, const Matrix& matrix, const Vector& bias, const Vector& norm);
    void head(const Batch& batch, const std::optional<Reach>& reach, float* logits);
    void final_norm(int64_t token, float* out) const;
    // A matrix of a layer, its correction (or null), and where their sum goes: [tokens][padded rows of the matrix].
    struct Linear {
        const Matrix* matrix;
        const LowRank* correction;
        float* out;
    };
    template <typename Fill>
    void fill(int64_t tokens, const std::vector<const Matrix*>& matrices, Precision precision, const Fill& row);
    template <typename Fill>
    void multiply_all(int64_t tokens, std::initializer_list<Linear> linears, const Fill& row);

    ModelWeights weights_;
    KvCache cache_;
    Pool pool_;
    Activations activations_;
    std::vector<const Matrix*> matrices_;  // of one loop
    std::vector<Product> products_;
    ScreenedHead screened_;
    std::vector<Token> tokens_;
    Attention attend_;
    std::vector<Span> spans_;
    int64_t q_size_, kv_size_;
    // [tokens][...], rows padded to what products write
    Buffer<float> x_, q_, k_, v_, attention_, sum_, gate_, up_, logits_;
    Buffer<float> inputs_;  // of matrices with corrections, and of a head with a screen
    Buffer<float> between_;  // of corrections
    std::vector<Angles> angles_;  // by rope
};

}  // namespace tk
