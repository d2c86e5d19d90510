// Which instruction set runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace tk {

struct IsaInfo {
    const char* name;
    const KernelTable* table;
    bool available;
    std::string missing;  // what this processor or this build lacks
};

// Slowest first.
const std::vector<IsaInfo>& instruction_sets();
const IsaInfo& current_isa();
// By name; "auto" takes the fastest available. Raises std::invalid_argument naming what is missing.
void select_isa(const std::string& name);
inline const KernelTable& kernels() { return *current_isa().table; }

}  // namespace tk
