/* Creates and destroys runtimes; the only place that asks the processor what it can do. */
#include "runtime.h"

#include <stdlib.h>

#if defined(GH_WITH_AVX2)
#include <cpuid.h>
#endif
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

/* __builtin_cpu_supports also asks whether the system saves these registers, of 256 and of 512 bits. Features whose
 * names older compilers do not know are read from the processor. */
#if defined(GH_WITH_AVX2)
static bool has_f16c(void) {
    unsigned eax, ebx, ecx = 0, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
#endif

#if defined(GH_WITH_AVXVNNI)
static bool has_avxvnni(void) {
    enum { LEAF = 7, SUBLEAF = 1, AVX_VNNI = 1 << 4 };
    unsigned eax = 0, ebx, ecx, edx;
    return has_avx2() && __get_cpuid_count(LEAF, SUBLEAF, &eax, &ebx, &ecx, &edx) && (eax & AVX_VNNI) != 0;
}
#endif

#if defined(GH_WITH_AVX512)
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

static const gh_kernels *kernels_of(int isa) {
    if (isa == GH_ISA_PORTABLE) {
        return &gh_kernels_portable;
    }
#if defined(GH_WITH_AVX2)
    if (isa == GH_ISA_AVX2 && has_avx2()) {
        return &gh_kernels_avx2;
    }
#endif
#if defined(GH_WITH_AVXVNNI)
    if (isa == GH_ISA_AVXVNNI && has_avxvnni()) {
        return &gh_kernels_avxvnni;
    }
#endif
#if defined(GH_WITH_AVX512)
    if (isa == GH_ISA_AVX512 && has_avx512()) {
        return &gh_kernels_avx512;
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
