#include "training/adamw.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "isa.h"

namespace tk {

namespace {

constexpr int64_t kPiece = 64 * kMomentBlock;  // weights of one chunk

const TrainingTable& table() { return kernels().training; }

struct Piece {
    int64_t tensor, first, size;
};

std::vector<Piece> pieces_of(const std::vector<AdamTensor>& tensors) {
    std::vector<Piece> pieces;
    for (size_t i = 0; i < tensors.size(); ++i)
        for (int64_t first = 0; first < tensors[i].size; first += kPiece)
            pieces.push_back({static_cast<int64_t>(i), first, std::min(kPiece, tensors[i].size - first)});
    return pieces;
}

uint32_t mixed(uint32_t x) {  // Wellons, "lowbias32"
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

AdamStep step_of(const AdamTensor& tensor, const AdamOptions& options) {
    const auto step = static_cast<double>(tensor.step);
    const double known1 = 1 - std::pow(options.beta1, step), known2 = std::sqrt(1 - std::pow(options.beta2, step));
    return {.kept = static_cast<float>(1 - tensor.learning_rate * tensor.weight_decay),
            .rate = static_cast<float>(tensor.learning_rate * known2 / known1),
            .eps = static_cast<float>(options.eps * known2),
            .share1 = static_cast<float>(1 - options.beta1),
            .beta2 = static_cast<float>(options.beta2),
            .share2 = static_cast<float>(1 - options.beta2),
            .seed = mixed(mixed(static_cast<uint32_t>(tensor.step)) + tensor.number)};
}

void update_coded(const AdamTensor& tensor, const AdamStep& step, int64_t start, int64_t size) {
    auto *first = static_cast<uint8_t*>(tensor.first), *second = static_cast<uint8_t*>(tensor.second);
    for (int64_t i = start; i < start + size; i += kMomentBlock) {
        const int64_t exponent = tensor.size + i / kMomentBlock;
        table().adamw_block(step, i, std::min(kMomentBlock, start + size - i), tensor.weight + i, tensor.grad + i,
                            {first + i, second + i, first + exponent, second + exponent});
    }
}

void update(const AdamTensor& tensor, const AdamStep& step, int64_t start, int64_t size) {
    const auto with = [&](const auto& rows, auto* first, auto* second) {
        rows.adamw(step, start, size, tensor.weight + start, tensor.grad + start, first + start, second + start);
    };
    if (tensor.bits == 8) update_coded(tensor, step, start, size);
    else if (tensor.bits == 16) with(table().halves, static_cast<Bf16*>(tensor.first), static_cast<Bf16*>(tensor.second));
    else with(table().floats, static_cast<float*>(tensor.first), static_cast<float*>(tensor.second));
}

}  // namespace

int64_t adamw(Team team, const std::vector<AdamTensor>& tensors, const AdamOptions& options) {
    const auto pieces = pieces_of(tensors);
    const auto over_pieces = [&](const auto& body) {
        team.run(static_cast<int64_t>(pieces.size()), [&](int64_t number) { body(pieces[number], tensors[pieces[number].tensor]); });
    };
    std::vector<std::atomic<bool>> unfit(tensors.size());
    over_pieces([&](const Piece& piece, const AdamTensor& tensor) {
        if (!table().is_within(tensor.grad + piece.first, piece.size, kLargestGradient)) unfit[piece.tensor] = true;
    });
    if (const auto bad = std::find(unfit.begin(), unfit.end(), true); bad != unfit.end()) return bad - unfit.begin();
    std::vector<AdamStep> steps;
    for (const AdamTensor& tensor : tensors) steps.push_back(step_of(tensor, options));
    over_pieces([&](const Piece& piece, const AdamTensor& tensor) { update(tensor, steps[piece.tensor], piece.first, piece.size); });
    return -1;
}

}  // namespace tk
