// What kernels see of CUDA when a C++ compiler reads them. `engine/kernels/device.cuh` includes this instead of CUDA's
// headers. Every function is a call into the emulator: the accesses that the compiler instruments are the kernel's own.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "half.h"
#include "site.h"

struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };

namespace emulator {

struct Index3 { unsigned x, y, z; };
Index3 thread_index();
Index3 block_index();
Index3 grid_size();
unsigned char* shared_memory();

// Synchronisation. All of these can be muted by their site (`Card::mute` of the Rust crate), to ask whether anybody would notice.
void sync_threads(Site site = Site::here());
void sync_warp(Site site = Site::here());
// A copy of 16 bytes lands when its thread waits for it; until then nobody may touch the target. The bytes from
// `source_bytes` on become zero.
void copy_async(void* shared, const void* global, int source_bytes, Site site);
void commit_copies(Site site);
// Waits until at most `left` of the latest groups are under way.
void wait_copies(int left, Site site);

// Warp instructions: all 32 lanes arrive at the same one. They order no memory.
uint32_t shuffle_xor(uint32_t value, int mask, Site site);
void ldmatrix_x4(uint32_t (&fragments)[4], const void* row, bool transposed, Site site);
enum class Element { Bf16, F16 };
// d[16][8] += a[16][16] b[16][8], in the fragments of PTX's mma.m16n8k16.
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Element element, Site site);

// Whole accesses. The compiler may split one of its own, and nobody would notice that it is not aligned. A load goes past
// the caches that writes keep true: nothing that the launch writes may be read so.
void load(void* to, const void* from, size_t bytes, Site site);
void store(void* to, const void* from, size_t bytes, Site site);

// What the program finds by a kernel's name.
struct Kernel {
    void (*entry)(const void* arguments);
    size_t argument_bytes;
    unsigned threads;
};

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define gridDim (emulator::grid_size())
inline void __syncthreads(emulator::Site site = emulator::Site::here()) { emulator::sync_threads(site); }
inline void __syncwarp(emulator::Site site = emulator::Site::here()) { emulator::sync_warp(site); }
