// Small things that every file needs.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

// Kernels keep arrays of vectors in registers; that works only where everything is inlined, lambdas too.
#define TK_INLINE inline __attribute__((always_inline))
#define TK_INLINED __attribute__((always_inline))

namespace tk {

constexpr int64_t kRowBlock = 16;   // output rows that share one vector of packed weights
constexpr int64_t kStep = 4;        // inputs in one 32-bit lane of a dot-product instruction
constexpr int64_t kTokenTile = 8;  // most tokens for which one unpacked weight is used

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Memory aligned to cache lines, or to huge pages where it is large (fewer TLB misses on weights).
template <typename T>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(int64_t size) { resize(size); }

    // Memory that somebody else owns and keeps alive, which may be read only.
    static Buffer borrow(T* memory, int64_t size) { return Buffer(memory, size, Owner::other); }
    // The same, of which whoever has the buffer keeps the owner alive, and may write.
    static Buffer part_of(void* memory, int64_t size) { return Buffer(static_cast<T*>(memory), size, Owner::whole); }

    // Contents are lost; new memory is zero when it comes from the system (large buffers), else undefined.
    void resize(int64_t size) {
        if (size <= capacity_) {
            size_ = size;
            return;
        }
        constexpr size_t huge = size_t{2} << 20;
        const size_t bytes = static_cast<size_t>(size) * sizeof(T);
        const size_t alignment = bytes >= huge ? huge : 64;
        void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
        if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (bytes >= huge) madvise(memory, bytes / huge * huge, MADV_HUGEPAGE);
#endif
        data_ = {static_cast<T*>(memory), Free{}};
        size_ = capacity_ = size;
    }

    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    int64_t size() const { return size_; }
    bool is_borrowed() const { return data_.get_deleter().owner == Owner::other; }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }

private:
    enum class Owner : uint8_t { self, whole, other };
    struct Free {
        Owner owner = Owner::self;
        void operator()(T* memory) const {
            if (owner == Owner::self) std::free(memory);
        }
    };
    Buffer(T* memory, int64_t size, Owner owner) : data_(memory, Free{owner}), size_(size), capacity_(size) {}

    std::unique_ptr<T[], Free> data_;
    int64_t size_ = 0;
    int64_t capacity_ = 0;
};

// Zeros that take memory only where they are written, large pages of it where the system has some.
class ZeroPages {
public:
    ZeroPages() = default;
    explicit ZeroPages(size_t bytes) : bytes_(bytes) {
        if (bytes == 0) return;
        data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data_ == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }
    ~ZeroPages() {
        if (bytes_) munmap(data_, bytes_);
    }
    ZeroPages(const ZeroPages&) = delete;

    void* data() const { return data_; }

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace tk
