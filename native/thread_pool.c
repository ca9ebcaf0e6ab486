/* The thread pool: workers join a job while it is open; the caller works too and waits only for those who joined.
 *
 *   caller    publish job, generation += 1 ──► work ──► close ──► wait until num_active == 0
 *   worker    spin on generation, then sleep ──► join if still open ──► work ──► leave
 *
 * A worker that wakes late finds the job closed and goes back to waiting, so a busy machine (or a forked child, which
 * has no workers) slows a job down but never blocks it. Tasks are handed out by one atomic counter.
 */
#include "thread_pool.h"

#include "guardhouse.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* About 20-40 us on a 3 GHz machine: longer than Python takes from one operation to the next, short enough to be
 * polite. */
enum { SPIN_ROUNDS = 1000, CACHE_LINE = 64 };

typedef struct {
    gh_task task;
    void *argument;
    size_t num_tasks;
} job;

typedef struct {
    void *memory;
    size_t capacity; /* bytes */
} arena;

typedef struct {
    gh_pool *pool;
    pthread_t thread;
    arena scratch;
} worker;

struct gh_pool {
    pthread_mutex_t owner; /* held between acquire and release */

    pthread_mutex_t lock; /* guards job, is_open, num_active, num_asleep, is_stopping and writes of generation */
    pthread_cond_t wake;  /* a new generation, or stopping */
    pthread_cond_t idle;  /* num_active fell to 0 */
    job job;
    bool is_open;
    bool is_stopping;
    size_t num_asleep;
    atomic_size_t num_active; /* workers inside the job */
    atomic_uint generation;   /* jobs published so far */
    _Alignas(CACHE_LINE) atomic_size_t next_task;

    arena shared;
    size_t num_workers; /* slot 0 is the caller's and has no thread */
    worker workers[];
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool arena_reserve(arena *arena, size_t num_bytes) {
    if (num_bytes <= arena->capacity) {
        return true;
    }
    size_t rounded = (num_bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    free(arena->memory);
    arena->memory = aligned_alloc(CACHE_LINE, rounded);
    arena->capacity = arena->memory != NULL ? rounded : 0;
    return arena->memory != NULL;
}

static void run_tasks(gh_pool *pool, const job *job, void *scratch) {
    for (;;) {
        size_t index = atomic_fetch_add_explicit(&pool->next_task, 1, memory_order_relaxed);
        if (index >= job->num_tasks) {
            return;
        }
        job->task(job->argument, index, scratch);
    }
}

/* Returns with the lock held. */
static void wait_for_generation_after(gh_pool *pool, unsigned seen) {
    for (int round = 0; round < SPIN_ROUNDS; round++) {
        if (atomic_load_explicit(&pool->generation, memory_order_relaxed) != seen) {
            break;
        }
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->generation, memory_order_relaxed) == seen && !pool->is_stopping) {
        pool->num_asleep++;
        pthread_cond_wait(&pool->wake, &pool->lock);
        pool->num_asleep--;
    }
}

static void *worker_main(void *argument) {
    worker *self = argument;
    gh_pool *pool = self->pool;
    unsigned seen = 0;
    for (;;) {
        wait_for_generation_after(pool, seen);
        if (pool->is_stopping) {
            pthread_mutex_unlock(&pool->lock);
            return NULL;
        }
        seen = atomic_load_explicit(&pool->generation, memory_order_relaxed);
        bool has_joined = pool->is_open;
        job job = pool->job;
        void *scratch = self->scratch.memory;
        atomic_fetch_add(&pool->num_active, has_joined);
        pthread_mutex_unlock(&pool->lock);
        if (!has_joined) {
            continue;
        }
        run_tasks(pool, &job, scratch);
        pthread_mutex_lock(&pool->lock);
        if (atomic_fetch_sub(&pool->num_active, 1) == 1) {
            pthread_cond_signal(&pool->idle);
        }
        pthread_mutex_unlock(&pool->lock);
    }
}

static void stop_workers(gh_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pool->is_stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 1; i < pool->num_workers; i++) {
        pthread_join(pool->workers[i].thread, NULL);
    }
}

gh_pool *gh_pool_create(int num_threads) {
    size_t num_workers = num_threads > 0 ? (size_t)num_threads : 1;
    size_t num_bytes = sizeof(gh_pool) + num_workers * sizeof(worker);
    num_bytes = (num_bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    gh_pool *pool = aligned_alloc(CACHE_LINE, num_bytes);
    if (pool == NULL) {
        return NULL;
    }
    *pool = (gh_pool){.num_workers = 1};
    pthread_mutex_init(&pool->owner, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->idle, NULL);
    pool->workers[0] = (worker){.pool = pool};
    for (size_t i = 1; i < num_workers; i++) {
        pool->workers[i] = (worker){.pool = pool};
        if (pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]) != 0) {
            gh_pool_destroy(pool);
            return NULL;
        }
        pool->num_workers++;
    }
    return pool;
}

void gh_pool_destroy(gh_pool *pool) {
    stop_workers(pool);
    for (size_t i = 0; i < pool->num_workers; i++) {
        free(pool->workers[i].scratch.memory);
    }
    free(pool->shared.memory);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->owner);
    free(pool);
}

static bool reserve_all(gh_pool *pool, size_t shared_bytes, size_t private_bytes) {
    bool is_enough = arena_reserve(&pool->shared, shared_bytes);
    for (size_t i = 0; i < pool->num_workers && is_enough; i++) {
        is_enough = arena_reserve(&pool->workers[i].scratch, private_bytes);
    }
    return is_enough;
}

int gh_pool_acquire(gh_pool *pool, size_t shared_bytes, size_t private_bytes) {
    pthread_mutex_lock(&pool->owner);
    /* A late worker reads its scratch pointer under the lock, so it may only change under the lock. */
    pthread_mutex_lock(&pool->lock);
    bool is_enough = reserve_all(pool, shared_bytes, private_bytes);
    pthread_mutex_unlock(&pool->lock);
    if (!is_enough) {
        pthread_mutex_unlock(&pool->owner);
    }
    return is_enough ? GH_OK : GH_OUT_OF_MEMORY;
}

void gh_pool_release(gh_pool *pool) { pthread_mutex_unlock(&pool->owner); }

void *gh_pool_shared(gh_pool *pool) { return pool->shared.memory; }

size_t gh_pool_num_threads(const gh_pool *pool) { return pool->num_workers; }

static void open_job(gh_pool *pool, const job *job) {
    pthread_mutex_lock(&pool->lock);
    pool->job = *job;
    pool->is_open = true;
    atomic_store_explicit(&pool->next_task, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_relaxed);
    if (pool->num_asleep > 0) {
        pthread_cond_broadcast(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
}

static void close_job(gh_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pool->is_open = false;
    pthread_mutex_unlock(&pool->lock);
    for (int round = 0; round < SPIN_ROUNDS && atomic_load(&pool->num_active) > 0; round++) {
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->num_active) > 0) {
        pthread_cond_wait(&pool->idle, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

void gh_pool_run(gh_pool *pool, gh_task task, void *argument, size_t num_tasks, bool is_parallel) {
    void *scratch = pool->workers[0].scratch.memory;
    if (!is_parallel || num_tasks < 2 || pool->num_workers < 2) {
        for (size_t index = 0; index < num_tasks; index++) {
            task(argument, index, scratch);
        }
        return;
    }
    job job = {task, argument, num_tasks};
    open_job(pool, &job);
    run_tasks(pool, &job, scratch);
    close_job(pool);
}
