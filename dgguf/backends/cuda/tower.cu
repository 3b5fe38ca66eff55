// Attention among all patches of an image, in float32: the vision tower's 27 layers amplify what is rounded. No row
// of scores is ever whole: the softmax goes on from tile to tile of keys, in its online form.
//
// A block takes QUERIES rows of a head and runs over all keys, KEYS at a time. Its 256 threads are 16 by 16: those of
// a line have 4 or 2 queries in common, and each has its keys of a tile and its columns of the sums.
//
// Compiled for HEAD_DIM, a multiple of 4 up to 176. The grid is (tiles of queries, heads).
#include "primitives.cuh"

constexpr int QUERIES = HEAD_DIM <= 72 ? 64 : 32, KEYS = QUERIES / 2;
constexpr int SIDE = 16, THREADS = SIDE * SIDE;
constexpr int ROWS = QUERIES / SIDE, EACH = KEYS / SIDE;    // queries and keys of a thread
constexpr int COLUMNS = (HEAD_DIM + SIDE - 1) / SIDE;       // of the sums, of a thread
constexpr int STRIDE = HEAD_DIM + 4;  // of a key in shared memory: eight lanes read 16 bytes each from other banks

// Rows first.. of (rows, heads, HEAD_DIM) into shared memory; 0 behind the last.
template <int N, int WIDTH>
DEVICE void load_tile(float (&to)[N][WIDTH], const float *from, int first, int rows, int heads) {
    for (int i = threadIdx.x; i < N * (HEAD_DIM / 4); i += THREADS) {
        const int row = i / (HEAD_DIM / 4), column = 4 * (i % (HEAD_DIM / 4));
        float4 v = {0, 0, 0, 0};
        if (first + row < rows)
            v = *(const float4 *)(from + ((long long)(first + row) * heads + blockIdx.y) * HEAD_DIM + column);
        *(float4 *)&to[row][column] = v;
    }
}

// q, k, v, out: (rows, heads, HEAD_DIM).
extern "C" __global__ void __launch_bounds__(THREADS)
    attend_all(const float *q, const float *k, const float *v, float *out, int rows, int heads) {
    __shared__ __align__(16) float queries[QUERIES][HEAD_DIM];
    __shared__ __align__(16) float keys[KEYS][STRIDE];
    __shared__ __align__(16) float values[KEYS][STRIDE];
    __shared__ __align__(16) float shares[QUERIES][KEYS];

    const int first = QUERIES * blockIdx.x, x = threadIdx.x % SIDE, mine = threadIdx.x / SIDE * ROWS;
    load_tile(queries, q, first, rows, heads);
    float sums[ROWS][COLUMNS] = {}, largest[ROWS], total[ROWS] = {};
    for (int i = 0; i < ROWS; i++) largest[i] = -INFINITY;

    for (int start = 0; start < rows; start += KEYS) {
        __syncthreads();  // all have read the last tile
        load_tile(keys, k, start, rows, heads);
        load_tile(values, v, start, rows, heads);
        __syncthreads();

        float scores[ROWS][EACH] = {};
#pragma unroll 2
        for (int d = 0; d < HEAD_DIM; d += 4) {
            float4 b[EACH];
#pragma unroll
            for (int j = 0; j < EACH; j++) b[j] = *(const float4 *)&keys[x + SIDE * j][d];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const float4 a = *(const float4 *)&queries[mine + i][d];
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    scores[i][j] += a.x * b[j].x + a.y * b[j].y + a.z * b[j].z + a.w * b[j].w;
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float most = largest[i], sum = 0;
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                if (start + x + SIDE * j >= rows) scores[i][j] = -INFINITY;
                most = fmaxf(most, scores[i][j]);
            }
#pragma unroll
            for (int mask = SIDE / 2; mask > 0; mask >>= 1) most = fmaxf(most, from_lane_xor(most, mask));
            const float factor = expf(largest[i] - most);
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                const float share = expf(scores[i][j] - most);
                shares[mine + i][x + SIDE * j] = share;
                sum += share;
            }
#pragma unroll
            for (int mask = SIDE / 2; mask > 0; mask >>= 1) sum += from_lane_xor(sum, mask);
            total[i] = total[i] * factor + sum;
            largest[i] = most;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) sums[i][c] *= factor;
        }
        __syncwarp();  // a warp reads the shares of its own queries alone
#pragma unroll 4
        for (int key = 0; key < KEYS; key++) {
            float value[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                value[c] = x + SIDE * c < HEAD_DIM ? values[key][x + SIDE * c] : 0;
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const float share = shares[mine + i][key];
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) sums[i][c] += share * value[c];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        if (first + mine + i >= rows) continue;
        const float inverse = 1.0f / total[i];
        float *to = out + ((long long)(first + mine + i) * heads + blockIdx.y) * HEAD_DIM;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            if (x + SIDE * c < HEAD_DIM) to[x + SIDE * c] = sums[i][c] * inverse;
    }
}
