/* What every operation is given: the threads and the kernels of one instruction set.
 *
 * Knows: which kernels this machine can run.
 * Never knows: what is computed.
 */
#ifndef GH_RUNTIME_H
#define GH_RUNTIME_H

#include "guardhouse.h"
#include "kernels.h"
#include "thread_pool.h"

struct gh_runtime {
    gh_pool *pool;
    const gh_kernels *kernels;
};

/* Below this much work (in units of about 10 picoseconds, so 20 us) waking a thread costs more than it saves. */
enum { GH_PARALLEL_WORK = 2000000 };

static inline size_t gh_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t gh_max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t gh_ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

/* Cuts `count` items into a few equal runs per thread; returns the items per run. */
static inline size_t gh_run_length(const gh_runtime *runtime, size_t count) {
    enum { RUNS_PER_THREAD = 24 };
    size_t runs = gh_pool_num_threads(runtime->pool) * RUNS_PER_THREAD;
    return count > runs ? gh_ceil_div(count, runs) : 1;
}

#endif
