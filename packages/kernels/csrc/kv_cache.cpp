#include "kv_cache.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "isa.h"

namespace tk {

namespace {

int64_t element_bytes(CacheType type) { return type == CacheType::f32 ? 4 : type == CacheType::f16 ? 2 : 1; }
int64_t scale_bytes(CacheType type) { return type == CacheType::int8 ? 2 * kPageTokens * int64_t{sizeof(float)} : 0; }

bool are_finite(const float* x, int64_t size) {
    int32_t most = 0;  // a loop without an exit becomes vectors
    for (int64_t i = 0; i < size; ++i) {
        int32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        most = std::max(most, bits & 0x7fffffff);
    }
    return most < 0x7f800000;
}

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
      data_(static_cast<size_t>(num_pages * page_bytes())) {
    if (type == CacheType::int8 && head_dim > kMostInt8HeadDim)
        throw std::invalid_argument("heads of " + std::to_string(head_dim) + " are too large for an int8 cache, which takes up to " +
                                    std::to_string(kMostInt8HeadDim) + "; take f16");
}

// In a tile of 16 lanes, kStep neighbours of a lane lie side by side.
template <typename T, int64_t kStep>
void KvCache::place(uint8_t* head, int64_t slot, const T* key, const T* value) const {
    const auto at = [](int64_t i, int64_t lane) { return i / kStep * kStep * kTileLanes + lane * kStep + i % kStep; };
    T* keys = reinterpret_cast<T*>(head) + slot / kTileLanes * head_dim_padded_ * kTileLanes;
    for (int64_t d = 0; d < head_dim_; ++d) keys[at(d, slot % kTileLanes)] = key[d];
    T* values = reinterpret_cast<T*>(head + part_bytes_);
    for (int64_t d = 0; d < head_dim_; ++d) values[d / kTileLanes * kTileLanes * kPageTokens + at(slot, d % kTileLanes)] = value[d];
}

void KvCache::store(int64_t layer, int64_t page, int64_t head, int64_t slot, const float* key, const float* value) {
    uint8_t* out = head_of(layer, page, head);
    thread_local std::vector<float> no_numbers;
    if (!are_finite(key, head_dim_) || !are_finite(value, head_dim_)) {
        no_numbers.assign(2 * head_dim_, 0.0f);
        std::fill_n(no_numbers.begin(), head_dim_, std::numeric_limits<float>::quiet_NaN());
        key = no_numbers.data();
        value = no_numbers.data() + head_dim_;
    }
    if (type_ == CacheType::f32) return place<float, 1>(out, slot, key, value);
    thread_local std::vector<uint16_t> halves;
    thread_local std::vector<uint32_t> codes;  // four to a number
    thread_local std::vector<int32_t> sums;
    if (type_ == CacheType::f16) {
        halves.resize(2 * head_dim_);
        kernels().to_half(key, head_dim_, halves.data());
        kernels().to_half(value, head_dim_, halves.data() + head_dim_);
        return place<uint16_t, 1>(out, slot, halves.data(), halves.data() + head_dim_);
    }
    const int64_t words = head_dim_padded_ / kStep;
    codes.resize(2 * words);
    sums.resize(head_dim_padded_ / 16);
    float* scales = reinterpret_cast<float*>(out + 2 * part_bytes_) + slot;
    scales[0] = 1 / kernels().quantize(key, head_dim_, head_dim_padded_, codes.data(), 1, sums.data());
    scales[kPageTokens] = 1 / kernels().quantize(value, head_dim_, head_dim_padded_, codes.data() + words, 1, sums.data());
    place<int8_t, 2>(out, slot, reinterpret_cast<const int8_t*>(codes.data()), reinterpret_cast<const int8_t*>(codes.data() + words));
}

PageView KvCache::view(int64_t layer, int64_t page, int64_t head) const {
    const uint8_t* keys = head_of(layer, page, head);
    const auto* scales = type_ == CacheType::int8 ? reinterpret_cast<const float*>(keys + 2 * part_bytes_) : nullptr;
    return {keys, keys + part_bytes_, scales, scales ? scales + kPageTokens : nullptr};
}

}  // namespace tk
