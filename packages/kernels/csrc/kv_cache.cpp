#include "kv_cache.h"

#include <algorithm>
#include <vector>

#include "isa.h"

namespace tk {

namespace {

int64_t element_bytes(CacheType type) { return type == CacheType::f32 ? 4 : type == CacheType::f16 ? 2 : 1; }
int64_t scale_bytes(CacheType type) { return type == CacheType::int8 ? 2 * kPageTokens * int64_t{sizeof(float)} : 0; }

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
      head_dim_padded_(round_up(head_dim, kTileLanes)),
      num_pages_(num_pages),
      type_(type),
      part_bytes_(kPageTokens * head_dim_padded_ * element_bytes(type)),
      head_bytes_(2 * part_bytes_ + scale_bytes(type)),
      data_(static_cast<size_t>(num_pages * page_bytes())) {}

template <typename T>
void KvCache::place(uint8_t* head, int64_t slot, const T* key, const T* value) const {
    T* keys = reinterpret_cast<T*>(head) + slot / kTileLanes * head_dim_padded_ * kTileLanes + slot % kTileLanes;
    for (int64_t d = 0; d < head_dim_; ++d) keys[d * kTileLanes] = key[d];
    T* values = reinterpret_cast<T*>(head + part_bytes_) + slot * kTileLanes;
    for (int64_t d = 0; d < head_dim_; d += kTileLanes) std::copy_n(value + d, std::min(kTileLanes, head_dim_ - d), values + d * kPageTokens);
}

void KvCache::store(int64_t layer, int64_t page, int64_t head, int64_t slot, const float* key, const float* value) {
    uint8_t* out = head_of(layer, page, head);
    if (type_ == CacheType::f32) return place(out, slot, key, value);
    thread_local std::vector<uint16_t> halves;
    thread_local std::vector<uint32_t> codes;  // four to a number
    thread_local std::vector<int32_t> sums;
    if (type_ == CacheType::f16) {
        halves.resize(2 * head_dim_);
        kernels().to_half(key, head_dim_, halves.data());
        kernels().to_half(value, head_dim_, halves.data() + head_dim_);
        return place(out, slot, halves.data(), halves.data() + head_dim_);
    }
    const int64_t words = head_dim_padded_ / kStep;
    codes.resize(2 * words);
    sums.resize(head_dim_padded_ / 16);
    float* scales = reinterpret_cast<float*>(out + 2 * part_bytes_) + slot;
    scales[0] = 1 / kernels().quantize(key, head_dim_, head_dim_padded_, codes.data(), 1, sums.data());
    scales[kPageTokens] = 1 / kernels().quantize(value, head_dim_, head_dim_padded_, codes.data() + words, 1, sums.data());
    place(out, slot, reinterpret_cast<const int8_t*>(codes.data()), reinterpret_cast<const int8_t*>(codes.data() + words));
}

PageView KvCache::view(int64_t layer, int64_t page, int64_t head) const {
    const uint8_t* keys = head_of(layer, page, head);
    const auto* scales = type_ == CacheType::int8 ? reinterpret_cast<const float*>(keys + 2 * part_bytes_) : nullptr;
    return {keys, keys + part_bytes_, scales, scales ? scales + kPageTokens : nullptr};
}

}  // namespace tk
