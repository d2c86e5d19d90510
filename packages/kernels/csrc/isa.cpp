#include "isa.h"

#include <algorithm>
#include <atomic>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace tk {

extern const KernelTable kScalar;
#if defined(__x86_64__)
extern const KernelTable kAvx2, kAvx512;
extern const IntegerProducts kVnniProducts;
extern const MatmulFn kVbmiT5;
#elif defined(__aarch64__)
extern const KernelTable kNeon;
#endif

namespace {

#if defined(__x86_64__)
struct Feature {
    const char* name;
    bool present;
};

IsaInfo entry(const char* name, const KernelTable& table, const std::vector<Feature>& needs) {
    std::string missing;
    for (const auto& feature : needs)
        if (!feature.present) missing += (missing.empty() ? "" : ", ") + std::string(feature.name);
    return {name, &table, missing.empty(), missing.empty() ? "" : "the processor lacks " + missing};
}

KernelTable with_vnni() {
    KernelTable table = kAvx2;
    std::copy(std::begin(kVnniProducts.matmul), std::end(kVnniProducts.matmul), table.matmul);
    table.training.floats.group_product = kVnniProducts.of_floats;
    table.training.halves.group_product = kVnniProducts.of_halves;
    return table;
}

KernelTable with_vbmi() {
    KernelTable table = kAvx512;
    table.matmul[static_cast<int>(Format::t5)] = kVbmiT5;
    return table;
}

std::vector<IsaInfo> find() {
    static const KernelTable avx2_vnni_table = with_vnni(), vbmi_table = with_vbmi();
    __builtin_cpu_init();
    std::vector<Feature> avx2 = {{"AVX2", __builtin_cpu_supports("avx2") != 0},
                                 {"FMA", __builtin_cpu_supports("fma") != 0},
                                 {"F16C", __builtin_cpu_supports("f16c") != 0},
                                 {"BMI2", __builtin_cpu_supports("bmi2") != 0}};
    auto avx2_vnni = avx2, avx512 = avx2;
    avx2_vnni.push_back({"AVX-VNNI", __builtin_cpu_supports("avxvnni") != 0});
    avx512.insert(avx512.end(), {{"AVX512F", __builtin_cpu_supports("avx512f") != 0},
                                 {"AVX512BW", __builtin_cpu_supports("avx512bw") != 0},
                                 {"AVX512VL", __builtin_cpu_supports("avx512vl") != 0},
                                 {"AVX512DQ", __builtin_cpu_supports("avx512dq") != 0},
                                 {"AVX512_VNNI", __builtin_cpu_supports("avx512vnni") != 0}});
    auto vbmi = avx512;
    vbmi.push_back({"AVX512_VBMI", __builtin_cpu_supports("avx512vbmi") != 0});
    return {{"scalar", &kScalar, true, ""},
            entry("avx2", kAvx2, avx2),
            entry("avx2_vnni", avx2_vnni_table, avx2_vnni),
            entry("avx512_vnni", kAvx512, avx512),
            entry("avx512_vbmi", vbmi_table, vbmi)};
}
#elif defined(__aarch64__)
bool has_dot_products() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
    int present = 0;
    size_t size = sizeof present;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, nullptr, 0) == 0 && present;
#else
    return false;
#endif
}

std::vector<IsaInfo> find() {
    const bool dot = has_dot_products();
    return {{"scalar", &kScalar, true, ""}, {"neon_dot", &kNeon, dot, dot ? "" : "the processor lacks ASIMDDP"}};
}
#else
std::vector<IsaInfo> find() { return {{"scalar", &kScalar, true, ""}}; }
#endif

const IsaInfo* fastest() {
    const auto& all = instruction_sets();
    for (auto isa = all.rbegin(); isa != all.rend(); ++isa)
        if (isa->available) return &*isa;
    return &all.front();
}

std::atomic<const IsaInfo*>& current() {
    static std::atomic<const IsaInfo*> isa{fastest()};
    return isa;
}

}  // namespace

const std::vector<IsaInfo>& instruction_sets() {
    static const auto& all = *new std::vector<IsaInfo>(find());  // never destroyed: threads may compute while the process ends
    return all;
}

const IsaInfo& current_isa() { return *current().load(std::memory_order_relaxed); }

void select_isa(const std::string& name) {
    if (name == "auto") {
        current() = fastest();
        return;
    }
    std::string known;
    for (const auto& isa : instruction_sets()) {
        known += std::string(known.empty() ? "" : ", ") + isa.name;
        if (name != isa.name) continue;
        if (!isa.available) throw std::invalid_argument("instruction set '" + name + "' cannot run here: " + isa.missing);
        current() = &isa;
        return;
    }
    throw std::invalid_argument("unknown instruction set '" + name + "'; known: auto, " + known);
}

}  // namespace tk
