/* A fixed set of threads that run numbered tasks, and the scratch memory they do it in.
 *
 * Knows: threads, tasks as a function and a number, bytes of scratch.
 * Never knows: what a task computes.
 *
 * Use:  if (gh_pool_acquire(pool, shared_bytes, private_bytes) != GH_OK) ...
 *       gh_pool_run(pool, task, argument, num_tasks, is_parallel);      any number of times
 *       gh_pool_release(pool);
 * Between acquire and release the pool belongs to the caller; others wait.
 */
#ifndef GH_THREAD_POOL_H
#define GH_THREAD_POOL_H

#include <stdbool.h>
#include <stddef.h>

typedef struct gh_pool gh_pool;

/* `scratch` is the running thread's own. Which thread runs which task is not determined, so results must not depend on
 * it. */
typedef void (*gh_task)(void *argument, size_t index, void *scratch);

gh_pool *gh_pool_create(int num_threads);
void gh_pool_destroy(gh_pool *pool);

int gh_pool_acquire(gh_pool *pool, size_t shared_bytes, size_t private_bytes);
void gh_pool_release(gh_pool *pool);

/* The scratch that all tasks share: at least the acquired size, 64-byte aligned, contents undefined. */
void *gh_pool_shared(gh_pool *pool);

size_t gh_pool_num_threads(const gh_pool *pool);

/* Runs task(argument, 0 .. num_tasks - 1, scratch) and returns when all are done; on the caller alone unless parallel.
 */
void gh_pool_run(gh_pool *pool, gh_task task, void *argument, size_t num_tasks, bool is_parallel);

#endif
