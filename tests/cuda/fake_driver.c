// A CUDA driver without a GPU: its memory is the host's, copies are done, and kernels are only counted.
//
// With it in LD_LIBRARY_PATH the CUDA backend runs through numba-cuda and cuda-core as on a real
// machine: every call, type and argument is checked by them, and nothing is computed.
// Compiled by gcc -shared; the functions of cuda.h that are not here do nothing and succeed.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
static int launched, capturing, recorded, repeated;
static int context_marker, kernel_marker;
static void *current;

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *n) { return *n = 1, 0; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDeviceGetName(char *name, int length, int device) { return snprintf(name, length, "Fake GPU"), 0; }
int cuDeviceGetUuid_v2(void *uuid, int device) { return memset(uuid, 7, 16), 0; }
int cuDeviceTotalMem_v2(size_t *n, int device) { return *n = 24000000000, 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = 23000000000, *total = 24000000000, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    // Compute capability 9.0; limits that are large enough for anything.
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute < 12 ? 1024 : attribute == 97 ? 227 << 10 : 1;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &context_marker, 0; }
int cuCtxGetCurrent(void **context) { return *context = current, 0; }
int cuCtxSetCurrent(void *context) { return current = context, 0; }
int cuCtxPushCurrent_v2(void *context) { return current = context, 0; }
int cuCtxPopCurrent_v2(void **context) { return *context = current, 0; }
int cuCtxGetDevice(int *device) { return *device = 0, 0; }
int cuStreamGetCtx(void *stream, void **context) { return *context = &context_marker, 0; }
int cuStreamCreate(void **stream, unsigned flags) { return *stream = malloc(1), 0; }
int cuEventCreate(void **event, unsigned flags) { return *event = malloc(1), 0; }
int cuMemAlloc_v2(u64 *address, size_t n) { return *address = (u64)calloc(1, n + 512), 0; }
int cuMemHostAlloc(void **address, size_t n, unsigned flags) { return *address = calloc(1, n), 0; }
int cuMemHostGetDevicePointer_v2(u64 *address, void *host, unsigned flags) { return *address = (u64)host, 0; }
int cuMemcpyHtoD_v2(u64 to, const void *from, size_t n) {
    if (capturing) return 906;
    return memcpy((void *)to, from, n), 0;
}
int cuMemcpyDtoH_v2(void *to, u64 from, size_t n) { return memcpy(to, (void *)from, n), 0; }
int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t n, void *stream) {
    if (!capturing) memcpy((void *)to, from, n);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t n, void *stream) {
    if (capturing) return 906;  // CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, or worse
    memcpy(to, (void *)from, n);
    return 0;
}
int cuStreamSynchronize(void *stream) { return capturing ? 900 : 0; }
int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    return *library = malloc(1), 0;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) { return *kernel = &kernel_marker, 0; }
int cuKernelGetFunction(void **function, void *kernel) { return *function = &kernel_marker, 0; }
int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) { return *value = 64, 0; }
int cuFuncGetAttribute(int *value, int attribute, void *function) { return *value = 64, 0; }
int cuModuleLoadDataEx(void **module, const void *code, unsigned n, void *a, void *b) { return *module = malloc(1), 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { return *function = &kernel_marker, 0; }
int cuLaunchKernel(void *f, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c, unsigned shared,
                   void *stream, void **parameters, void **extra) {
    launched++, recorded += capturing;
    return x && y && z && a && b && c && a * b * c <= 1024 ? 0 : 1;
}
int cuLaunchKernelEx(const unsigned *config, void *f, void **parameters, void **extra) {
    return cuLaunchKernel(f, config[0], config[1], config[2], config[3], config[4], config[5], config[6], 0, 0, 0);
}
int cuStreamBeginCapture_v2(void *stream, int mode) { return capturing = 1, recorded = 0, 0; }
int cuStreamEndCapture(void *stream, void **graph) { return capturing = 0, *graph = malloc(1), 0; }
int cuStreamIsCapturing(void *stream, int *status) { return *status = capturing, 0; }
int cuGraphInstantiateWithFlags(void **executable, void *graph, u64 flags) { return *executable = malloc(1), 0; }
int cuGraphLaunch(void *executable, void *stream) { return repeated++, 0; }
int cuGetExportTable(const void **table, const void *id) { return *table = 0, 1; }
int cuGetErrorName(int error, const char **name) { return *name = "ERROR", 0; }
int cuGetErrorString(int error, const char **text) { return *text = "an error of the fake driver", 0; }

static int nothing(void) { return 0; }

int cuGetProcAddress_v2(const char *name, void **address, int version, u64 flags, int *status) {
    char versioned[128];
    *address = 0;
    for (int v = 3; v > 0 && !*address; v--) {
        snprintf(versioned, sizeof versioned, v > 1 ? "%s_v%d" : "%s", name, v);
        *address = dlsym(RTLD_DEFAULT, versioned);
    }
    if (!*address && getenv("FAKE_DRIVER_TRACE")) fprintf(stderr, "fake driver: %s does nothing\n", name);
    if (!*address) *address = nothing;
    if (status) *status = 0;
    return 0;
}
int cuGetProcAddress(const char *name, void **address, int version, u64 flags) {
    return cuGetProcAddress_v2(name, address, version, flags, 0);
}

// For the tests: kernels started, kernels in the last recording, repetitions.
void fake_driver_counts(int counts[3]) { counts[0] = launched, counts[1] = recorded, counts[2] = repeated; }
