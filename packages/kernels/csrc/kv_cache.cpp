#include "kv_cache.h"

#include <cmath>

#include "matrix.h"

namespace tk {

namespace {

int64_t element_bytes(CacheType type) { return type == CacheType::f32 ? 4 : type == CacheType::f16 ? 2 : 1; }

}  // namespace

KvCache::KvCache(int64_t num_layers, int64_t num_heads, int64_t head_dim, int64_t num_pages, CacheType type)
    : num_layers_(num_layers),
      num_heads_(num_heads),
      head_dim_(head_dim),
      head_dim_padded_(round_up(head_dim, 16)),
      num_pages_(num_pages),
      type_(type),
      head_bytes_(kPageTokens * head_dim_padded_ * element_bytes(type)),
      data_(static_cast<size_t>(num_layers * num_pages * num_heads * 2 * head_bytes_)),
      scales_(type == CacheType::int8 ? num_layers * num_pages * num_heads * 2 * kPageTokens * sizeof(float) : 0) {}

int64_t KvCache::page_bytes() const {
    const int64_t scales = type_ == CacheType::int8 ? 2 * kPageTokens * int64_t{sizeof(float)} : 0;
    return num_layers_ * num_heads_ * (2 * head_bytes_ + scales);
}

namespace {

template <typename Put>
void for_each_component(const float* key, const float* value, int64_t size, int64_t padded, int64_t slot, const Put& put) {
    for (int64_t d = 0; d < size; ++d) {
        put(true, d * kPageTokens + slot, key[d]);
        put(false, slot * padded + d, value[d]);
    }
}

float largest(const float* x, int64_t size) {
    float most = 0;
    for (int64_t i = 0; i < size; ++i) most = std::fmax(most, std::fabs(x[i]));
    return most;
}

}  // namespace

void KvCache::store(int64_t layer, int64_t page, int64_t head, int64_t slot, const float* key, const float* value) {
    const int64_t at = index(layer, page, head);
    uint8_t* keys = data() + at * 2 * head_bytes_;
    uint8_t* values = keys + head_bytes_;
    const auto store_all = [&](const auto& put) { for_each_component(key, value, head_dim_, head_dim_padded_, slot, put); };
    if (type_ == CacheType::f32)
        return store_all([&](bool is_key, int64_t i, float x) { reinterpret_cast<float*>(is_key ? keys : values)[i] = x; });
    if (type_ == CacheType::f16)
        return store_all([&](bool is_key, int64_t i, float x) { reinterpret_cast<uint16_t*>(is_key ? keys : values)[i] = float_to_half(x); });
    float* scales = scale_data() + at * 2 * kPageTokens + slot;
    const float key_scale = scales[0] = largest(key, head_dim_) / 127;
    const float value_scale = scales[kPageTokens] = largest(value, head_dim_) / 127;
    store_all([&](bool is_key, int64_t i, float x) {
        const float scale = is_key ? key_scale : value_scale;
        (is_key ? keys : values)[i] = static_cast<uint8_t>(static_cast<int8_t>(scale > 0 ? std::nearbyint(x / scale) : 0));
    });
}

PageView KvCache::view(int64_t layer, int64_t page, int64_t head) const {
    const int64_t at = index(layer, page, head);
    const uint8_t* keys = data() + at * 2 * head_bytes_;
    const float* scales = type_ == CacheType::int8 ? scale_data() + at * 2 * kPageTokens : nullptr;
    return {keys, keys + head_bytes_, scales, scales ? scales + kPageTokens : nullptr};
}

}  // namespace tk
