/* Creates and destroys runtimes; the only place that asks the processor what it can do. */
#include "runtime.h"

#include <stdlib.h>

#if defined(GH_WITH_NEON) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#if defined(GH_WITH_NEON)
/* Every Mac with an ARM processor has the dot product instructions. */
static bool has_dot_product(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return true;
#endif
}
#endif

static const gh_kernels *kernels_of(int isa) {
    if (isa == GH_ISA_PORTABLE) {
        return &gh_kernels_portable;
    }
#if defined(GH_WITH_AVX2)
    if (isa == GH_ISA_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c")) {
        return &gh_kernels_avx2;
    }
#endif
#if defined(GH_WITH_NEON)
    if (isa == GH_ISA_NEON && has_dot_product()) {
        return &gh_kernels_neon;
    }
#endif
    return NULL;
}

int gh_kernel_version(void) { return GH_KERNEL_VERSION; }

int gh_supports_isa(int isa) { return kernels_of(isa) != NULL; }

gh_runtime *gh_runtime_create(int num_threads, int isa) {
    const gh_kernels *kernels = kernels_of(isa);
    gh_runtime *runtime = kernels != NULL ? malloc(sizeof *runtime) : NULL;
    gh_pool *pool = runtime != NULL ? gh_pool_create(num_threads) : NULL;
    if (pool == NULL) {
        free(runtime);
        return NULL;
    }
    *runtime = (gh_runtime){.pool = pool, .kernels = kernels};
    return runtime;
}

void gh_runtime_destroy(gh_runtime *runtime) {
    gh_pool_destroy(runtime->pool);
    free(runtime);
}
