// Runs the kernels of dgguf/backends/cuda on a CPU, thread by thread, in place of primitives.cuh.
//
// The threads of a block are fibers that run in turn until a barrier. What a warp does together
// (mma, ldmatrix, shuffles) waits for its 32 lanes; the last one computes it for all, from the
// layouts that the PTX manual draws. Shared memory keeps what the block before left in it. Blocks run one after the
// other, and of each one warp as far as it comes before the next, the last ones first if that is asked for.
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include <ucontext.h>

typedef unsigned short u16;
typedef unsigned int u32;
struct int2 { int x, y; };
struct int4 { int x, y, z, w; };
struct uint2 { u32 x, y; };
struct uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct Dim { int x, y; };
static Dim threadIdx, blockIdx, gridDim;

#define DEVICE static inline
#define __global__
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))

struct Fiber {
    jmp_buf place;
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 16);
    bool started, done;
    std::vector<std::pair<void *, const void *>> begun;  // copies, of no group yet
    std::deque<std::vector<std::pair<void *, const void *>>> groups;
};
static std::vector<Fiber> fibers(1024);
static jmp_buf scheduler;
static int running, n_threads, progress;
static bool reversed;
static void (*body)();

struct Barrier { int arrived, generation; };
static Barrier block_barrier, some_barriers[16];

struct Warp {
    Barrier barrier;
    u32 a[32][4], b[32][2], result[32][4];
    float c[32][4], value[32];
    const u16 *row[32];
    int call;  // which collective the lanes are in: all must be in the same
};
static Warp warps[32];

static void yield_() {
    if (!_setjmp(fibers[running].place)) _longjmp(scheduler, 1);
}

static void wait_(Barrier &barrier, int count, void (*last)(Warp &), Warp *warp) {
    int mine = barrier.generation;
    if (++barrier.arrived == count) {
        if (last) last(*warp);
        barrier.arrived = 0, barrier.generation++, progress++;
    } else {
        while (barrier.generation == mine) yield_();
    }
}

static void __syncthreads() { wait_(block_barrier, n_threads, nullptr, nullptr); }
static void sync_threads(int number, int threads) { wait_(some_barriers[number], threads, nullptr, nullptr); }
static void memory_fence() {}  // blocks run one after the other
static u32 thread_anew() { return threadIdx.x; }
static float exp2_fast(float x) { return exp2f(x); }
template <class T> static T __ldcg(const T *from) { return *from; }

// What a launch asks for, and bytes behind it that no kernel may change.
static char dynamic_shared[(228 << 10) + 1024] __align__(16);
static int shared_bytes;
#define DYNAMIC_SHARED(type, name) type *const name = (type *)dynamic_shared

// The lanes of a warp meet: each has left its inputs in `warp`, the last computes the results.
static void together(int call, void (*last)(Warp &)) {
    Warp &warp = warps[threadIdx.x >> 5];
    if (warp.barrier.arrived == 0) warp.call = call;
    if (warp.call != call) {
        fprintf(stderr, "lanes of a warp disagree about what they do together\n");
        abort();
    }
    wait_(warp.barrier, 32, last, &warp);
}

static u32 select_bytes(u32 a, u32 b, u32 selector) {
    u32 out = 0;
    for (int i = 0; i < 4; i++) {
        int from = selector >> 4 * i & 7;
        out |= ((from < 4 ? a : b) >> 8 * (from & 3) & 255) << 8 * i;
    }
    return out;
}
static u32 low_half(u32 word) { return select_bytes(word, word, 0x1010); }
static u32 high_half(u32 word) { return select_bytes(word, word, 0x3232); }
static u32 and_or(u32 word, u32 mask, u32 rest) { return (word & mask) | rest; }

static float to_float(u32 bits) {
    u16 h = (u16)bits;
    _Float16 value;
    memcpy(&value, &h, 2);
    return (float)value;
}

static u32 to_bits(double value) {
    _Float16 h = (_Float16)value;
    u16 bits;
    memcpy(&bits, &h, 2);
    return bits;
}

#define PAIRWISE(expression)                                         \
    u32 out = 0;                                                     \
    for (int i = 0; i < 32; i += 16) {                               \
        double x = to_float(a >> i), y = to_float(b >> i), z = to_float(c >> i); \
        (void)z;                                                     \
        out |= to_bits(expression) << i;                             \
    }                                                                \
    return out;
static u32 half2_fma(u32 a, u32 b, u32 c) { PAIRWISE(x * y + z) }
static u32 half2_mul(u32 a, u32 b, u32 c = 0) { PAIRWISE(x * y) }
static u32 half2_sub(u32 a, u32 b, u32 c = 0) { PAIRWISE(x - y) }
static u32 to_half2(float low, float high) { return to_bits(low) | to_bits(high) << 16; }

static void mma_all(Warp &w) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 2; i++) {
            int g = lane >> 2, k = 2 * (lane & 3) + i;
            for (int r = 0; r < 4; r++) a[g + 8 * (r & 1)][k + 8 * (r >> 1)] = to_float(w.a[lane][r] >> 16 * i);
            for (int r = 0; r < 2; r++) b[k + 8 * r][g] = to_float(w.b[lane][r] >> 16 * i);
        }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            double sum = w.c[lane][i];
            for (int k = 0; k < 16; k++)
                sum += (double)a[(lane >> 2) + 8 * (i >> 1)][k] * b[k][2 * (lane & 3) + (i & 1)];
            w.c[lane][i] = (float)sum;
        }
}

static void mma(float c[4], const u32 a[4], u32 b0, u32 b1) {
    int lane = threadIdx.x & 31;
    Warp &w = warps[threadIdx.x >> 5];
    memcpy(w.c[lane], c, 16), memcpy(w.a[lane], a, 16);
    w.b[lane][0] = b0, w.b[lane][1] = b1;
    together(1, mma_all);
    memcpy(c, w.c[lane], 16);
}

static void load_all(Warp &w) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) memcpy(&w.result[lane][i], w.row[8 * i + (lane >> 2)] + 2 * (lane & 3), 4);
}

static void load_all_transposed(Warp &w) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int g = lane >> 2, t = lane & 3;
            w.result[lane][i] = w.row[8 * i + 2 * t][g] | (u32)w.row[8 * i + 2 * t + 1][g] << 16;
        }
}

static void load_with(int call, void (*all)(Warp &), u32 r[4], const u16 *row) {
    int lane = threadIdx.x & 31;
    Warp &w = warps[threadIdx.x >> 5];
    if ((uintptr_t)row % 16) {
        fprintf(stderr, "a row of a matrix in shared memory is not aligned to 16 bytes\n");
        abort();
    }
    w.row[lane] = row;
    together(call, all);
    memcpy(r, w.result[lane], 16);
}
static void load_matrices(u32 r[4], const u16 *row) { load_with(2, load_all, r, row); }
static void load_matrices_transposed(u32 r[4], const u16 *row) { load_with(3, load_all_transposed, r, row); }

static float from_lane_xor(float value, int mask) {
    Warp &w = warps[threadIdx.x >> 5];
    w.value[threadIdx.x & 31] = value;
    together(4 + mask, [](Warp &w) { memcpy(w.c, w.value, sizeof w.value); });
    return ((float *)w.c)[(threadIdx.x & 31) ^ mask];
}

static double from_lane_xor(double value, int mask) {
    float halves[2];
    memcpy(halves, &value, 8);
    for (float &half : halves) half = from_lane_xor(half, mask);
    memcpy(&value, halves, 8);
    return value;
}

static u32 ballot(bool holds) {
    Warp &w = warps[threadIdx.x >> 5];
    w.value[threadIdx.x & 31] = holds;
    together(100, [](Warp &w) {
        w.result[0][0] = 0;
        for (int lane = 0; lane < 32; lane++) w.result[0][0] |= (u32)(w.value[lane] != 0) << lane;
    });
    return w.result[0][0];
}

static void __syncwarp() { together(101, nullptr); }
static void __threadfence() {}
static int __popc(u32 bits) { return __builtin_popcount(bits); }

// The threads run in turn until a barrier: nothing comes between.
template <class T>
static T atomicAdd(T *to, T value) {
    T before = *to;
    *to = before + value;
    return before;
}

static u32 __float_as_uint(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static float __uint_as_float(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// A copy comes when its thread waits for it, the latest moment that the hardware may choose; until then its place
// holds no number. Before compute capability 8.0 there is none: `end_copy` stores what `begin_copy` has read.
#ifdef WITHOUT_ASYNC_COPIES
constexpr bool ASYNC_COPIES = false;
struct Copy { uint4 value; };
static void begin_copy(Copy &copy, void *, const void *from, bool present = true) {
    copy.value = {0, 0, 0, 0};
    if (present) copy.value = *(const uint4 *)from;
}
static void end_copy(const Copy &copy, void *to) { *(uint4 *)to = copy.value; }
static void commit_copies() {}
template <int N> static void wait_for_copies() {}
#else
constexpr bool ASYNC_COPIES = true;
struct Copy {};
static void begin_copy(Copy &, void *to, const void *from, bool present = true) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) {
        fprintf(stderr, "a copy is not aligned to 16 bytes\n");
        abort();
    }
    memset(to, 0xFF, 16);
    static const uint4 zeros = {};
    fibers[running].begun.push_back({to, present ? from : &zeros});
}
static void end_copy(const Copy &, void *) {}
static void commit_copies() {
    Fiber &f = fibers[running];
    f.groups.push_back(std::move(f.begun));
    f.begun.clear();
}
template <int N> static void wait_for_copies() {
    auto &groups = fibers[running].groups;
    for (; groups.size() > N; groups.pop_front())
        for (auto &[to, from] : groups.front()) memcpy(to, from, 16);
}
#endif

static void enter() {
    body();
    Fiber &f = fibers[running];
    size_t left = f.begun.size();
    for (auto &group : f.groups) left += group.size();
    f.groups.clear();
    if (left) {
        fprintf(stderr, "a thread ends before its copies have come\n");
        abort();
    }
    fibers[running].done = true, progress++;
    _longjmp(scheduler, 1);
}

// Lets a thread go on until it has to wait.
static void run_thread(int i) {
    Fiber &f = fibers[i];
    running = i, threadIdx = {i, 0};
    if (_setjmp(scheduler)) return;
    if (f.started) _longjmp(f.place, 1);
    f.started = true;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data(), f.context.uc_stack.ss_size = f.stack.size();
    makecontext(&f.context, enter, 0);
    setcontext(&f.context);
}

static void run_block() {
    const int n_warps = (n_threads + 31) / 32;
    block_barrier = {}, memset(some_barriers, 0, sizeof some_barriers), memset(warps, 0, sizeof warps);
    memset(dynamic_shared + shared_bytes, 0xA5, 1024);
    for (int i = 0; i < n_threads; i++) fibers[i].started = fibers[i].done = false;
    for (bool alive = true; alive;) {
        alive = false;
        int before = progress;
        for (int turn = 0; turn < n_warps; turn++) {
            const int warp = reversed ? n_warps - 1 - turn : turn;
            int seen;
            do {  // a warp as far as it comes: to a barrier at which others are missing
                seen = progress;
                for (int i = 32 * warp; i < min(n_threads, 32 * warp + 32); i++) {
                    if (fibers[i].done) continue;
                    alive = true;
                    run_thread(i);
                }
            } while (progress != seen);
        }
        if (alive && progress == before) {
            fprintf(stderr, "deadlock: the threads wait for different barriers\n");
            abort();
        }
    }
}

// As cuLaunchKernel: `parameters` points to the kernel's arguments.
template <class... A, size_t... I>
static void launch(void (*kernel)(A...), void **parameters, int x, int y, int threads, int shared, bool backwards,
                   std::index_sequence<I...>) {
    static void (*called)(A...);
    static void **given;
    called = kernel, given = parameters, n_threads = threads, gridDim = {x, y}, shared_bytes = shared;
    body = [] { called(*(A *)given[I]...); };
    reversed = backwards;
    for (int i = 0; i < x * y; i++) {
        const int block = backwards ? x * y - 1 - i : i;
        blockIdx = {block % x, block / x}, run_block();
        for (int at = 0; at < 1024; at++)
            if ((unsigned char)dynamic_shared[shared_bytes + at] != 0xA5) {
                fprintf(stderr, "a block writes behind its shared memory\n");
                abort();
            }
    }
}

#define EXPORT(kernel)                                                                                          \
    template <class... A>                                                                                       \
    static void launch_##kernel(void (*f)(A...), void **p, int x, int y, int threads, int shared, int backwards) { \
        launch(f, p, x, y, threads, shared, backwards, std::index_sequence_for<A...>());                        \
    }                                                                                                           \
    extern "C" void run_##kernel(void **p, int x, int y, int threads, int shared, int backwards) {              \
        launch_##kernel(kernel, p, x, y, threads, shared, backwards);                                           \
    }
