#include "kv_cache.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "isa.h"

namespace tk {

namespace {

int64_t element_bytes(CacheType type) { return type == CacheType::f32 ? 4 : type == CacheType::f16 ? 2 : 1; }

}  // namespace

CacheType parse_cache_type(const std::string& name) {
    if (name == "f32") return CacheType::f32;
    if (name == "f16") return CacheType::f16;
    if (name == "int8") return CacheType::int8;
    throw std::invalid_argument("unknown cache type '" + name + "'; known: f32, f16, int8");
}

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

// int8 codes of one vector; gives the scale.
float quantize(const float* x, int64_t size, int8_t* codes) {
    float most = 0;
    for (int64_t i = 0; i < size; ++i) most = std::fmax(most, std::fabs(x[i]));
    const float inverse = most > 0 ? 127 / most : 0;
    for (int64_t i = 0; i < size; ++i) codes[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    return most / 127;
}

}  // namespace

template <typename T>
void KvCache::place(uint8_t* head, int64_t slot, const T* key, const T* value) const {
    T* keys = reinterpret_cast<T*>(head);
    for (int64_t d = 0; d < head_dim_; ++d) keys[d * kPageTokens + slot] = key[d];
    std::memcpy(head + head_bytes_ + slot * head_dim_padded_ * sizeof(T), value, head_dim_ * sizeof(T));
}

void KvCache::store(int64_t layer, int64_t page, int64_t head, int64_t slot, const float* key, const float* value) {
    const int64_t at = index(layer, page, head);
    uint8_t* out = data() + at * 2 * head_bytes_;
    if (type_ == CacheType::f32) return place(out, slot, key, value);
    thread_local std::vector<uint16_t> scratch;
    scratch.resize(2 * head_dim_);
    if (type_ == CacheType::f16) {
        kernels().to_half(key, head_dim_, scratch.data());
        kernels().to_half(value, head_dim_, scratch.data() + head_dim_);
        return place(out, slot, scratch.data(), scratch.data() + head_dim_);
    }
    auto* codes = reinterpret_cast<int8_t*>(scratch.data());
    float* scales = scale_data() + at * 2 * kPageTokens + slot;
    scales[0] = quantize(key, head_dim_, codes);
    scales[kPageTokens] = quantize(value, head_dim_, codes + head_dim_);
    place(out, slot, codes, codes + head_dim_);
}

PageView KvCache::view(int64_t layer, int64_t page, int64_t head) const {
    const int64_t at = index(layer, page, head);
    const uint8_t* keys = data() + at * 2 * head_bytes_;
    const float* scales = type_ == CacheType::int8 ? scale_data() + at * 2 * kPageTokens : nullptr;
    return {keys, keys + head_bytes_, scales, scales ? scales + kPageTokens : nullptr};
}

}  // namespace tk
