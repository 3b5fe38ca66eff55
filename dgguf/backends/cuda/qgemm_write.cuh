// What becomes of a warp's sums in qgemm.cu, which includes this file: numbers of out, or with GATED gelu(gate) * up.
#pragma once

// The sums of a block of 16 rows.
template <int TILES>
DEVICE void write_sums(const float sums[TILES][4], Tile tile, int block, PARAMETERS) {
    const int lane = thread_anew() & 31;  // else addresses would be in registers all along
    // The matrix that the rows are of.
    const int start = 16 * block < end0 ? 0 : 16 * block < end1 ? end0 : end1;
    const int width = (start < end0 ? end0 : start < end1 ? end1 : rows) - start;
    float *const to = (float *)out + (long long)n_tokens * start - start;
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int token = 8 * n + 2 * (lane & 3) + i;
            if (token >= tile.count) continue;
            long long slot = tile.first + token;
            float factor = unscale * x_scale[gather ? gather[slot] : slot];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = 16 * block + 8 * half + (lane >> 2);
                float value = sums[n][2 * half + i] * factor;
                if (row < rows) to[slot * width + row] = cap > 0 ? cap * tanhf(value / cap) : value;
            }
        }
}

// The power of two that brings a bound to 2^14 to 2^15; 1 for what is nearly 0 or infinite, or is no number.
DEVICE float factor_for(float bound) {
    if (!(bound > 1e-25f && bound < 1e30f)) return 1.0f;
    return __uint_as_float((2 * 127 + 14 - (__float_as_uint(bound) >> 23)) << 23);
}

// gelu(gate) * up of the sums of a block of 16 rows of each, gelu in its tanh form. block: of the output.
template <int TILES>
DEVICE void write_gated(const float gate[TILES][4], const float up[TILES][4], Tile tile, int block, PARAMETERS) {
    const int lane = thread_anew() & 31, width = rows / 2;
    const float most = reach[tile.expert];
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int token = 8 * n + 2 * (lane & 3) + i;
            if (token >= tile.count) continue;
            long long slot = tile.first + token;
            const float scale = x_scale[gather ? gather[slot] : slot], factor = factor_for(most * scale * scale);
            if (block == 0 && lane < 4) out_scales[slot] = 1.0f / factor;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float g = gate[n][2 * half + i] * (unscale * scale), u = up[n][2 * half + i] * (unscale * scale);
                const float inner = 0.7978845608028654f * (g + 0.044715f * g * g * g);
                ((u16 *)out)[slot * width + 16 * block + 8 * half + (lane >> 2)] =
                    (u16)to_half2(0.5f * g * (1.0f + tanhf(inner)) * u * factor, 0.0f);
            }
        }
}

// What a warp's sums become, of UNITS blocks of 16 rows from `block` on. spare: of the block, nobody needs it any more.
template <int TILES, int UNITS>
DEVICE void write(const float sums[UNITS][TILES][4], Tile tile, int block, void *spare, PARAMETERS) {
    if constexpr (!GATED) {
#pragma unroll
        for (int u = 0; u < UNITS; u++) write_sums<TILES>(sums[u], tile, block + u, ARGUMENTS);
    } else if constexpr (UNITS == 2) {
        write_gated<TILES>(sums[0], sums[1], tile, block / 2, ARGUMENTS);
    } else {  // up is in the next warp
        float *const exchanged = (float *)spare + (threadIdx.x >> 6) * TILES * 4 * 32 + (threadIdx.x & 31);
        __syncthreads();
        if (block & 1)
#pragma unroll
            for (int n = 0; n < TILES * 4; n++) exchanged[32 * n] = sums[0][n / 4][n % 4];
        __syncthreads();
        if (block & 1) return;
        float up[TILES][4];
#pragma unroll
        for (int n = 0; n < TILES * 4; n++) up[n / 4][n % 4] = exchanged[32 * n];
        write_gated<TILES>(sums[0], up, tile, block / 2, ARGUMENTS);
    }
}
