// Keys and values of all layers in pages of 32 tokens; who owns which page is the scheduler's business.
#pragma once

#include "attention.h"
#include "common.h"

namespace tk {

// f32, f16 or int8. Raises std::invalid_argument on other names.
CacheType parse_cache_type(const std::string& name);

class KvCache {
public:
    // Raises std::invalid_argument where heads are too large for int8.
    KvCache(int64_t num_layers, int64_t num_heads, int64_t head_dim, int64_t num_pages, CacheType type);

    CacheType type() const { return type_; }
    int64_t num_pages() const { return num_pages_; }
    int64_t num_heads() const { return num_heads_; }
    int64_t head_dim() const { return head_dim_; }
    int64_t padded_head_dim() const { return head_dim_padded_; }
    int64_t page_bytes() const { return num_layers_ * num_heads_ * head_bytes_; }  // of all layers

    // Stores one token's key and value of one head; slot is its place in the page. f16 keeps what lies beyond it as +-65504. Where
    // one of the two has NaN or infinity, NaN is kept as the key and zeros as the value: whoever sees the token gets NaN, whoever
    // multiplies its value by zero, because it may not see it, gets zero.
    void store(int64_t layer, int64_t page, int64_t head, int64_t slot, const float* key, const float* value);
    PageView view(int64_t layer, int64_t page, int64_t head) const;

private:
    uint8_t* head_of(int64_t layer, int64_t page, int64_t head) const {
        return static_cast<uint8_t*>(data_.data()) + ((page * num_layers_ + layer) * num_heads_ + head) * head_bytes_;
    }
    template <typename T, int64_t kStep>
    void place(uint8_t* head, int64_t slot, const T* key, const T* value) const;

    int64_t num_layers_, num_heads_, head_dim_, head_dim_padded_, num_pages_;
    CacheType type_;
    int64_t part_bytes_;  // keys or values of one head of one page
    int64_t head_bytes_;  // both, and their scales
    // [page][layer][head]: keys, values, and with int8 float key scales [32] and value scales [32]. A page lies in one
    // piece, so that large pages of the system's hold no more than is used.
    // Attention multiplies the values of masked tokens by zero, so every one must be a number from the start (store()).
    ZeroPages data_;
};

}  // namespace tk
