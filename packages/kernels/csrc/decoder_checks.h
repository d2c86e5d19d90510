// What a decoder refuses: weights that do not fit their configuration, and batches out of range.
#pragma once

#include "decoder.h"

namespace tk {

// Raises std::invalid_argument where shapes do not fit the configuration.
ModelWeights checked(ModelWeights weights);

// Raises std::invalid_argument on ids, positions or pages out of range.
void check(const Batch& batch, const DecoderConfig& config, int64_t num_pages);

}  // namespace tk
