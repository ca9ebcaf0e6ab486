/* How a ragged batch is cut into tasks of attention.c.
 *
 * Knows: a batch's spans, its block tables, the number of threads.
 * Never knows: keys, values, queries.
 */
#ifndef GH_ATTENTION_PLAN_H
#define GH_ATTENTION_PLAN_H

#include "runtime.h"

/* Neighbouring queries of one sequence. */
typedef struct {
    size_t seq;
    size_t first_token; /* row of qkv */
    size_t num_queries;
} gh_segment;

typedef struct {
    const gh_segment *segments;
    size_t num_segments;
    size_t num_rows;
    size_t shared_keys; /* the first so many keys are the same for all segments and visible to all rows; whole tiles */
} gh_attention_task;

typedef struct {
    const gh_cache *cache;
    const gh_batch *batch;
    size_t heads_per_kv;
    size_t max_rows; /* of a task */
    gh_attention_task *tasks;
    size_t num_tasks; /* of one key head */
    size_t work;      /* about the number of multiply-adds */
} gh_attention_plan;

/* True when positions ascend within each sequence and every block that is read exists. */
bool gh_is_sound_batch(const gh_batch *batch, const gh_cache *cache);

/* All but the tasks. */
gh_attention_plan gh_attention_plan_start(const gh_heads *heads, const gh_cache *cache, const gh_batch *batch,
                                          size_t num_threads);

size_t gh_attention_plan_bytes(const gh_batch *batch);

/* Writes the tasks to `memory`, gh_attention_plan_bytes long. */
void gh_attention_plan_cut(gh_attention_plan *plan, void *memory);

#endif
