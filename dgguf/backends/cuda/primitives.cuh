// What the kernels here need of the hardware, and nothing else, so that tests can put
// tests/support/cuda_emulation.h in its place and run the same kernels on a CPU.
#pragma once

#ifdef DGGUF_EMULATION
#include DGGUF_EMULATION
#else

typedef unsigned short u16;
typedef unsigned int u32;

#define DEVICE __device__ __forceinline__
#define INFINITY __int_as_float(0x7F800000)

// Four of the eight bytes of a and b, numbered from a's lowest on; a digit of the selector for each.
DEVICE u32 select_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }

// A pair of the float16 in the lower half of a word, or in the upper one: not an instruction of its own where
// half2_mul or half2_fma take it.
DEVICE u32 low_half(u32 word) {
    u32 d;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {l, l};}" : "=r"(d) : "r"(word));
    return d;
}

DEVICE u32 high_half(u32 word) {
    u32 d;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, h};}" : "=r"(d) : "r"(word));
    return d;
}

// (word & mask) | rest, in one instruction: the compiler would gather masks and need more.
DEVICE u32 and_or(u32 word, u32 mask, u32 rest) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(word), "r"(mask), "r"(rest));
    return d;
}

// Two float16 in a word each.
DEVICE u32 half2_sub(u32 a, u32 b) {
    u32 d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

DEVICE u32 half2_mul(u32 a, u32 b) {
    u32 d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

DEVICE u32 half2_fma(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// The float16 in the lower half of a word.
DEVICE float to_float(u32 half) {
    float d;
    asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(d) : "r"(half));
    return d;
}

DEVICE u32 to_half2(float low, float high) {
    u16 a, b;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(a) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(b) : "f"(high));
    return (u32)a | (u32)b << 16;
}

// c += a @ b for the warp: 16 x 16 float16 by 16 x 8 float16, float32 sums.
// Lane 4g+t has a: rows g, g+8, g, g+8 at columns 2t, 2t, 2t+8, 2t+8 and the next; b: column g at
// rows 2t and 2t+8 and the next; c: rows g, g, g+8, g+8 at columns 2t, 2t+1, 2t, 2t+1.
DEVICE void mma(float c[4], const u32 a[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// Four 8 x 8 float16 matrices from shared memory; lane 8i+j points to row j of matrix i (16 bytes,
// aligned). Lane 4g+t gets row g, columns 2t and 2t+1 of each; transposed: rows 2t and 2t+1, column g.
DEVICE void load_matrices(u32 r[4], const u16 *row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

DEVICE void load_matrices_transposed(u32 r[4], const u16 *row) {
    u32 address = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// A copy of 16 bytes, aligned, from global to shared memory: begin_copy, then commit_copies, which makes a group of
// those begun, later end_copy. The bytes are there for the thread when wait_for_copies returns, for others behind
// a barrier after it; zeros come where `present` is false, and nothing is read. Before compute capability 8.0 they wait
// in registers for end_copy, which stores them.
#if __CUDA_ARCH__ >= 800
constexpr bool ASYNC_COPIES = true;
struct Copy {};

DEVICE void begin_copy(Copy &, void *to, const void *from) {
    u32 address = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}

DEVICE void begin_copy(Copy &, void *to, const void *from, bool present) {
    u32 address = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(present ? 16 : 0)
                 : "memory");
}

DEVICE void end_copy(const Copy &, void *) {}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups but the last N.
template <int N>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#else
constexpr bool ASYNC_COPIES = false;
struct Copy {
    uint4 value;
};

DEVICE void begin_copy(Copy &copy, void *, const void *from) { copy.value = *(const uint4 *)from; }

DEVICE void begin_copy(Copy &copy, void *, const void *from, bool present) {
    copy.value = {0, 0, 0, 0};
    if (present) copy.value = *(const uint4 *)from;
}

DEVICE void end_copy(const Copy &copy, void *to) { *(uint4 *)to = copy.value; }
DEVICE void commit_copies() {}

template <int N>
DEVICE void wait_for_copies() {}
#endif

// Shared memory whose size the launch says: an array of `type`.
#define DYNAMIC_SHARED(type, name)                          \
    extern __shared__ __align__(16) char name##_bytes[];    \
    type *const name = (type *)name##_bytes

// A barrier of some of a block's warps; `number` from 1 to 15, `threads` theirs.
DEVICE void sync_threads(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// What this thread has written before, others see before what it writes afterwards.
DEVICE void memory_fence() { __threadfence(); }

// threadIdx.x. What the compiler makes of it is not what it has made of it before and would keep in registers.
DEVICE u32 thread_anew() {
    u32 d;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(d));
    return d;
}

// 2^x, to two units in the last place; 0 where that is no normal number.
DEVICE float exp2_fast(float x) {
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

// The value of the lane whose number differs in the bits of `mask`.
DEVICE float from_lane_xor(float value, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, value, mask); }
DEVICE double from_lane_xor(double value, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, value, mask); }

// A bit for each lane of the warp: whether it holds there.
DEVICE u32 ballot(bool holds) { return __ballot_sync(0xFFFFFFFFu, holds); }

#endif
