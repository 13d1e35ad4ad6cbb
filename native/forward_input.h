// One step, described once for all layers: tokens, where their keys and values go, and which blocks
// each sequence attends to. Everything that can be checked without knowing the model is checked
// here, so that each op needs only a few comparisons.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cierzo {

// As the caller has them: T tokens, S sequences.
struct ForwardArrays {
    std::span<const int32_t> token_ids;     // [T]
    std::span<const int32_t> positions;     // [T]
    std::span<const int32_t> slot_mapping;  // [T], block_id * 16 + offset
    std::span<const int32_t> query_starts;  // [S + 1], a sequence's rows; from 0 to T
    std::span<const int32_t> context_lens;  // [S], tokens attended to, this step's included
    std::span<const int32_t> block_tables;  // [S, max_blocks], -1 = freed or unused
    int64_t max_blocks;
    std::span<const float> cos, sin;  // [T, rope_pairs]
    int64_t rope_pairs;
    std::span<const float> query_scale;  // [T]
    int64_t num_prompt_tokens = 0;       // the first ones; whole sequences
};

struct ForwardInput {
    // Copies. Throws std::invalid_argument naming the array, the rule and the offending value.
    explicit ForwardInput(const ForwardArrays& a);

    int64_t num_tokens() const { return int64_t(token_ids.size()); }
    int64_t num_sequences() const { return int64_t(context_lens.size()); }
    int64_t num_queries(int64_t s) const {
        return query_starts[size_t(s) + 1] - query_starts[size_t(s)];
    }
    bool is_prompt(int64_t s) const { return query_starts[size_t(s)] < num_prompt_tokens; }
    const int32_t* block_table(int64_t s) const { return block_tables.data() + s * max_blocks; }

    std::vector<int32_t> token_ids, positions, slot_mapping, query_starts, context_lens;
    std::vector<int32_t> block_tables;
    int64_t max_blocks;
    std::vector<float> cos, sin;
    int64_t rope_pairs;
    std::vector<float> query_scale;
    int64_t num_prompt_tokens;  // rows [0, num_prompt_tokens) are prompt tokens, the others not

    // Derived, for the ops' checks.
    int32_t max_token_id = -1;
    int32_t max_slot = -1;
    int32_t max_block_id = -1;
    std::vector<int32_t> first_held;  // [S]: from this context position on no block is freed
};

}  // namespace cierzo
