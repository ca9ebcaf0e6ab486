/* Deals the new tokens of a batch to attention tasks: at most MOST_ROWS rows each, of one long sequence or of several
 * short ones that begin with the same blocks.
 *
 *   block tables   sequence 0   4 5 6 | 9          sequence 1   4 5 6 | 12 13        sequence 2   30 31
 *   tasks                       [ 0, 1: three blocks shared ]                        [ 2 ]
 */
#include "attention_plan.h"

enum { MOST_ROWS = 192, LEAST_ROWS = 24 };

static bool is_sound_sequence(const gh_batch *batch, const gh_cache *cache, int64_t seq) {
    int64_t begin = batch->query_starts[seq];
    int64_t end = batch->query_starts[seq + 1];
    int64_t context = batch->context_lens[seq];
    if (begin < 0 || end < begin || end > batch->num_tokens || context < end - begin) {
        return false;
    }
    for (int64_t t = begin; t < end; t++) {
        int64_t least = t > begin ? (int64_t)batch->positions[t - 1] + 1 : 0;
        if (batch->positions[t] < least || batch->positions[t] >= context) {
            return false;
        }
    }
    int64_t num_blocks = (context + cache->block_size - 1) / cache->block_size;
    if (num_blocks > batch->max_blocks) {
        return false;
    }
    for (int64_t j = 0; j < num_blocks; j++) {
        int32_t block = batch->block_tables[seq * batch->max_blocks + j];
        if (block < 0 || block >= cache->num_blocks) {
            return false;
        }
    }
    return true;
}

bool gh_is_sound_batch(const gh_batch *batch, const gh_cache *cache) {
    bool is_good = batch->query_starts[0] == 0 && batch->query_starts[batch->num_seqs] == batch->num_tokens;
    for (int64_t seq = 0; seq < batch->num_seqs && is_good; seq++) {
        is_good = is_sound_sequence(batch, cache, seq);
    }
    return is_good;
}

static size_t whole_tiles(size_t num_keys) { return num_keys / GH_KEY_TILE * GH_KEY_TILE; }

/* How many of the first `limit` keys two sequences have in common, block by block, as whole tiles. */
static size_t common_keys(const gh_attention_plan *plan, size_t seq, size_t other, size_t limit) {
    size_t block_size = (size_t)plan->cache->block_size;
    const int32_t *blocks = plan->batch->block_tables + seq * (size_t)plan->batch->max_blocks;
    const int32_t *others = plan->batch->block_tables + other * (size_t)plan->batch->max_blocks;
    size_t count = 0;
    while (count * block_size < limit && blocks[count] == others[count]) {
        count++;
    }
    return whole_tiles(gh_min(count * block_size, limit));
}

/* Gives a segment to the last task if that has room and begins with the same keys, else to a new one. */
static void add_segment(gh_attention_plan *plan, const gh_segment *part) {
    gh_attention_task *last = plan->num_tasks > 0 ? &plan->tasks[plan->num_tasks - 1] : NULL;
    size_t shared_keys = whole_tiles((size_t)plan->batch->positions[part->first_token] + 1);
    size_t num_rows = part->num_queries * plan->heads_per_kv;
    if (last != NULL && last->num_rows + num_rows <= plan->max_rows) {
        size_t common = common_keys(plan, last->segments[0].seq, part->seq, gh_min(last->shared_keys, shared_keys));
        if (common > 0) {
            last->num_segments++;
            last->num_rows += num_rows;
            last->shared_keys = common;
            return;
        }
    }
    plan->tasks[plan->num_tasks++] = (gh_attention_task){part, 1, num_rows, shared_keys};
}

/* Rows of a task, whole queries: many, so that a tile is converted for many, but some tasks for every thread. */
static size_t choose_rows(const gh_attention_plan *plan, size_t num_kv_heads, size_t num_threads) {
    size_t all_rows = (size_t)plan->batch->num_tokens * plan->heads_per_kv;
    size_t rows = MOST_ROWS;
    while (rows > LEAST_ROWS && gh_ceil_div(all_rows, rows) * num_kv_heads < 2 * num_threads) {
        rows /= 2;
    }
    return gh_max(rows / plan->heads_per_kv, 1) * plan->heads_per_kv;
}

gh_attention_plan gh_attention_plan_start(const gh_heads *heads, const gh_cache *cache, const gh_batch *batch,
                                          size_t num_threads) {
    gh_attention_plan plan = {cache, batch, .heads_per_kv = (size_t)(heads->num_heads / heads->num_kv_heads)};
    plan.max_rows = choose_rows(&plan, (size_t)heads->num_kv_heads, num_threads);
    size_t width = (size_t)(heads->num_heads * heads->head_dim);
    for (size_t seq = 0; seq < (size_t)batch->num_seqs; seq++) {
        size_t num_queries = (size_t)(batch->query_starts[seq + 1] - batch->query_starts[seq]);
        plan.work += 2 * num_queries * (size_t)batch->context_lens[seq] * width;
    }
    return plan;
}

size_t gh_attention_plan_bytes(const gh_batch *batch) {
    return (size_t)batch->num_tokens * (sizeof(gh_attention_task) + sizeof(gh_segment));
}

void gh_attention_plan_cut(gh_attention_plan *plan, void *memory) {
    plan->tasks = memory;
    gh_segment *part = (gh_segment *)(plan->tasks + plan->batch->num_tokens);
    size_t queries_per_task = plan->max_rows / plan->heads_per_kv;
    for (size_t seq = 0; seq < (size_t)plan->batch->num_seqs; seq++) {
        size_t end = (size_t)plan->batch->query_starts[seq + 1];
        for (size_t first = (size_t)plan->batch->query_starts[seq]; first < end; first += queries_per_task) {
            *part = (gh_segment){seq, first, gh_min(queries_per_task, end - first)};
            add_segment(plan, part++);
        }
    }
}
