// How units and rows of x come to shared memory: a part of qgemm.cu, which says what the names mean.

// What a block has of a chunk in shared memory: the rows of x, and the images of each warp's units, one below the
// other.
template <int TOKENS, int UNITS>
struct Stage {
    __align__(16) u16 x[TOKENS][STRIDE];
    __align__(16) char units[WARPS][UNITS][UNIT_BYTES];
};

// Chunks in shared memory, which may have 48 KB, with a table of 1 KB.
template <int TOKENS, int UNITS>
constexpr int STAGES = ASYNC_COPIES && 3 * sizeof(Stage<TOKENS, UNITS>) <= 48 * 1024 - 1024 * TABLE ? 3 : 2;

constexpr int LOW_PIECES = LOW_BYTES / 512;  // of 16 bytes for each lane
constexpr int REST_BYTES = HIGH_BYTES + SCALE_BYTES, REST_PIECES = (REST_BYTES + 511) / 512;
// Whether all lanes' bytes of a piece are of one plane: then how far it is to the next chunk's is no variable.
constexpr bool REST_ALIKE = HIGH_BYTES % 512 == 0;
#define REST_STEP(piece) (512 * (piece) < HIGH_BYTES ? HIGH_BYTES : SCALE_BYTES)
template <int TOKENS>
constexpr int X_PIECES = TOKENS * CHUNK / 8 / THREADS;  // of 16 bytes for each thread

// What a thread copies of each chunk, of its warp's units and of the block's rows of x. Rows that a tile does not
// have are zeros: a guard around a copy costs more than a copy that reads nothing.
template <int TOKENS, int UNITS>
struct Feed {
    const char *low[UNITS], *rest[UNITS][REST_PIECES ? REST_PIECES : 1], *x[X_PIECES<TOKENS>];
    int rest_step[REST_PIECES ? REST_PIECES : 1];  // in either of the two other planes, from chunk to chunk
    bool present[X_PIECES<TOKENS>];
    Copy low_copies[UNITS][LOW_PIECES], rest_copies[UNITS][REST_PIECES ? REST_PIECES : 1], x_copies[X_PIECES<TOKENS>];
};

// The copies begin with the warp's block `first_block` of 16 rows, and with chunk `first`. Beyond the last block they
// take that one again; nothing of it is kept.
template <int TOKENS, int UNITS>
DEVICE void start_feed(Feed<TOKENS, UNITS> &feed, Tile tile, int first_block, int first, PARAMETERS) {
    const int lane = threadIdx.x & 31, n_blocks = (rows + 15) / 16;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const int block = min(first_block + u, n_blocks - 1);
        const long long unit = ((long long)tile.expert * n_blocks + block) * chunks + first;
        feed.low[u] = (const char *)low + unit * LOW_BYTES + 16 * lane;
#pragma unroll
        for (int i = 0; i < REST_PIECES; i++) {
            const int at = 16 * (32 * i + lane);
            const char *plane = at < HIGH_BYTES ? (const char *)high + at : (const char *)scales + at - HIGH_BYTES;
            feed.rest_step[i] = at < HIGH_BYTES ? HIGH_BYTES : SCALE_BYTES;
            feed.rest[u][i] = plane + unit * feed.rest_step[i];
        }
    }
#pragma unroll
    for (int i = 0; i < X_PIECES<TOKENS>; i++) {
        const int token = i * (THREADS / 8) + (threadIdx.x >> 3);
        feed.present[i] = token < tile.count;
        const long long row = !feed.present[i] ? 0 : gather ? gather[tile.first + token] : tile.first + token;
        feed.x[i] = (const char *)(x + (row * chunks + first) * CHUNK) + 16 * (threadIdx.x & 7);
    }
}

// Begins the copies of the chunk that is `ahead` of the one where the feed stands, the first TOKENS rows of x at most;
// one chunk after the other.
template <int TOKENS, int FED, int UNITS>
DEVICE void begin_copies(Feed<FED, UNITS> &feed, Stage<FED, UNITS> &stage, int ahead) {
    const int lane = threadIdx.x & 31;
    u16 *x = &stage.x[threadIdx.x >> 3][8 * (threadIdx.x & 7)];
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        char *image = stage.units[threadIdx.x >> 5][u] + 16 * lane;
#pragma unroll
        for (int i = 0; i < LOW_PIECES; i++)
            begin_copy(feed.low_copies[u][i], image + 512 * i, feed.low[u] + ahead * LOW_BYTES + 512 * i);
#pragma unroll
        for (int i = 0; i < REST_PIECES; i++) {
            if (16 * (32 * i + lane) < REST_BYTES)
                begin_copy(feed.rest_copies[u][i], image + LOW_BYTES + 512 * i,
                           feed.rest[u][i] + (REST_ALIKE ? ahead * REST_STEP(i) : 0));
            if (!REST_ALIKE) feed.rest[u][i] += feed.rest_step[i];
        }
    }
#pragma unroll
    for (int i = 0; i < X_PIECES<TOKENS>; i++)
        begin_copy(feed.x_copies[i], x + i * (THREADS / 8) * STRIDE, feed.x[i] + ahead * 2 * CHUNK, feed.present[i]);
}

template <int TOKENS, int FED, int UNITS>
DEVICE void end_copies(const Feed<FED, UNITS> &feed, Stage<FED, UNITS> &stage) {
    const int lane = threadIdx.x & 31;
    u16 *x = &stage.x[threadIdx.x >> 3][8 * (threadIdx.x & 7)];
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        char *image = stage.units[threadIdx.x >> 5][u] + 16 * lane;
#pragma unroll
        for (int i = 0; i < LOW_PIECES; i++) end_copy(feed.low_copies[u][i], image + 512 * i);
#pragma unroll
        for (int i = 0; i < REST_PIECES; i++)
            if (16 * (32 * i + lane) < REST_BYTES) end_copy(feed.rest_copies[u][i], image + LOW_BYTES + 512 * i);
    }
#pragma unroll
    for (int i = 0; i < X_PIECES<TOKENS>; i++)
        end_copy(feed.x_copies[i], x + i * (THREADS / 8) * STRIDE);
}

// Starts the feed with chunk `first` of `n`, and begins the copies of as many as are on their way at a time.
template <int TOKENS, int UNITS>
DEVICE void start_strip(Feed<TOKENS, UNITS> &feed, Stage<TOKENS, UNITS> *stages, Tile tile, int first_block,
                        int first, int n, PARAMETERS) {
    start_feed(feed, tile, first_block, first, ARGUMENTS);
#pragma unroll
    for (int i = 0; i < STAGES<TOKENS, UNITS> - 1; i++) {
        if (i < n) begin_copies<TOKENS>(feed, stages[i], i), end_copies<TOKENS>(feed, stages[i]);
        commit_copies();
    }
}
