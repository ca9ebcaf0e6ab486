/* Repacks 4-bit codes into panels of 16 outputs, so that a product reads each panel as one stream.
 *
 *   codes   [in_features, out_features], one byte each
 *   panels  [ceil(out_features / 16)] [groups] [quads] [32 bytes]
 *
 *   32 bytes of (panel p, group g, quad q), with o = 16 p and k = g * group_size + 4 q:
 *
 *     byte 4 j + i:   low nibble = code of output o + j,     input row k + i        j = 0 .. 7
 *                    high nibble = code of output o + j + 8, input row k + i        i = 0 .. 3
 *
 * A group's last quad is filled up with zero codes, as is the last panel.
 */
#include "runtime.h"

#include <string.h>

typedef struct {
    const uint8_t *codes;
    const gh_int4_weight *shape;
    uint8_t *panels;
} pack_job;

/* The codes of one input row for the 16 outputs of a panel; zeros beyond the last output. */
static void copy_row(const pack_job *job, size_t panel, size_t row, uint8_t target[GH_PANEL]) {
    size_t num_outputs = (size_t)job->shape->out_features;
    size_t begin = panel * GH_PANEL;
    memset(target, 0, GH_PANEL);
    memcpy(target, job->codes + row * num_outputs + begin, gh_min(GH_PANEL, num_outputs - begin));
}

static void pack_quad(const pack_job *job, size_t panel, size_t first_row, size_t num_rows, uint8_t *target) {
    memset(target, 0, 2 * GH_PANEL);
    for (size_t i = 0; i < num_rows; i++) {
        uint8_t row[GH_PANEL];
        copy_row(job, panel, first_row + i, row);
        for (size_t j = 0; j < GH_PANEL / 2; j++) {
            target[j * GH_QUAD + i] = (uint8_t)((row[j] & 15) | row[j + GH_PANEL / 2] << 4);
        }
    }
}

static void pack_panel(void *argument, size_t panel, void *scratch) {
    (void)scratch;
    const pack_job *job = argument;
    size_t group_size = (size_t)job->shape->group_size;
    size_t num_groups = (size_t)job->shape->in_features / group_size;
    size_t num_quads = gh_ceil_div(group_size, GH_QUAD);
    uint8_t *target = job->panels + panel * num_groups * num_quads * 2 * GH_PANEL;
    for (size_t group = 0; group < num_groups; group++) {
        for (size_t quad = 0; quad < num_quads; quad++) {
            size_t num_rows = gh_min(GH_QUAD, group_size - quad * GH_QUAD);
            pack_quad(job, panel, group * group_size + quad * GH_QUAD, num_rows, target);
            target += 2 * GH_PANEL;
        }
    }
}

int gh_pack_int4(gh_runtime *runtime, const uint8_t *codes, const gh_int4_weight *shape, uint8_t *panels) {
    int status = gh_pool_acquire(runtime->pool, 0, 0);
    if (status != GH_OK) {
        return status;
    }
    pack_job job = {codes, shape, panels};
    gh_pool_run(runtime->pool, pack_panel, &job, gh_ceil_div((size_t)shape->out_features, GH_PANEL), true);
    gh_pool_release(runtime->pool);
    return GH_OK;
}
