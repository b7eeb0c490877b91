/* An eviction boundary in C: of a prompt's rows, some stay; their norm, and the cache of those alone. No torch, no
 * Python. Prints the positions that stayed and a checksum. */
#include <avflow/avflow.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 12, WIDTH = 16, HEADS = 2, HEAD_DIM = 8, KEPT = 5 };

static void require(AvflowStatus status) {
    if (status == AVFLOW_OK) return;
    fprintf(stderr, "avflow: status %d: %s\n", (int)status, avflow_last_error());
    exit(1);
}

int main(void) {
    static float rows[TOKENS][WIDTH], weight[WIDTH], kept[KEPT][WIDTH], normed[KEPT][WIDTH];
    static float cache[HEADS][TOKENS][HEAD_DIM], left[HEADS][KEPT][HEAD_DIM];
    const int32_t keep[KEPT] = {0, 3, 7, 11, -1}; /* the last is padding, which gives zeros */
    double sum = 0;
    int i, j;

    for (i = 0; i < TOKENS; ++i)
        for (j = 0; j < WIDTH; ++j) rows[i][j] = (float)(i + 1) * (j % 2 ? -1.0f : 1.0f);
    for (j = 0; j < WIDTH; ++j) weight[j] = 1.0f;
    for (i = 0; i < TOKENS; ++i)
        for (j = 0; j < HEAD_DIM; ++j) cache[0][i][j] = (float)i, cache[1][i][j] = (float)-i;

    AvflowNorm norm = {0};
    norm.size = sizeof norm;
    norm.x = rows, norm.weight = weight, norm.keep = keep;
    norm.kept = kept, norm.normed = normed;
    norm.n = TOKENS, norm.m = KEPT, norm.width = WIDTH, norm.x_row = WIDTH;
    norm.eps = 1e-6f;
    norm.type = AVFLOW_F32;
    require(avflow_gather_norm(&norm));

    AvflowCompaction compaction = {0};
    compaction.size = sizeof compaction;
    compaction.x = cache, compaction.keep = keep, compaction.out = left;
    compaction.batch = 1, compaction.heads = HEADS, compaction.n = TOKENS, compaction.m = KEPT;
    compaction.row_bytes = sizeof cache[0][0], compaction.x_token = sizeof cache[0][0];
    compaction.x_head = sizeof cache[0];
    require(avflow_compact(&compaction));

    for (i = 0; i < KEPT; ++i) {
        if (keep[i] >= 0 && kept[i][0] != (float)(keep[i] + 1)) return 2;
        if (keep[i] >= 0 && left[1][i][0] != (float)-keep[i]) return 3;
        for (j = 0; j < WIDTH; ++j) sum += fabs(normed[i][j]);
    }
    printf("stayed: %d %d %d %d; sum of the norms' sizes %.3f\n", keep[0], keep[1], keep[2], keep[3], sum);
    return fabs(sum - 4 * WIDTH) < 1e-3 ? 0 : 4;
}
