#include "pool.h"

#include <sched.h>

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tk {

namespace {

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr auto kSpin = std::chrono::microseconds(200);  // longer than the serial parts of a decoder step
constexpr int kPollsPerClock = 64;

// Polls until ready() or the time is over; says which.
template <typename Ready>
bool spin(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < kPollsPerClock; ++i) {
            if (ready()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

int available_cores() {
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

Pool::Pool(int num_threads) {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
    stop_ = true;
    wake_.fetch_add(1);
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

bool Pool::take(uint32_t number, int thread) {
    uint64_t next = loop_.next.load(std::memory_order_acquire);
    while (true) {
        const auto chunk = static_cast<uint32_t>(next);
        // num_chunks may already belong to a later loop; then the exchange fails, because next carries another number.
        if (next >> 32 != number || chunk >= loop_.num_chunks.load(std::memory_order_relaxed)) return false;
        if (!loop_.next.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) continue;
        loop_.call(loop_.context, chunk, thread);
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }
}

void Pool::start(int64_t num_chunks, Call call, const void* context) {
    const uint32_t number = static_cast<uint32_t>(loop_.next.load(std::memory_order_relaxed) >> 32) + 1;
    // Until the last of these stores no chunk can be taken: the new number comes with chunks that are all taken, and
    // a late worker of the last loop finds another number.
    loop_.next.store(uint64_t{number} << 32 | 0xffffffffu, std::memory_order_seq_cst);
    done_.store(0, std::memory_order_relaxed);
    loop_.call = call;
    loop_.context = context;
    loop_.num_chunks.store(static_cast<uint32_t>(num_chunks), std::memory_order_relaxed);
    loop_.next.store(uint64_t{number} << 32, std::memory_order_seq_cst);
    wake_.store(number, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
    while (take(number, 0)) {
    }
    const auto finished = [&] { return done_.load(std::memory_order_acquire) == static_cast<uint32_t>(num_chunks); };
    while (!spin(finished)) sched_yield();  // a worker was stopped within its chunk: give it this core
}

void Pool::work(int thread) {
    uint32_t seen = 0;
    while (true) {
        const auto changed = [&] { return static_cast<uint32_t>(loop_.next.load(std::memory_order_acquire) >> 32) != seen; };
        if (!spin(changed)) {
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            wake_.wait(seen, std::memory_order_seq_cst);
            sleepers_.fetch_sub(1, std::memory_order_relaxed);
        }
        if (stop_) return;
        seen = static_cast<uint32_t>(loop_.next.load(std::memory_order_acquire) >> 32);
        while (take(seen, thread)) {
        }
    }
}

}  // namespace tk
