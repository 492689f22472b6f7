// What kernels may use of the machine. The only file with inline PTX, and the only one that knows of the emulator
// (docs/kernels.md): every name below exists twice, with the same meaning.
#pragma once

#ifdef __CUDACC__
#include <cstdint>
#define KV_FN __device__ __forceinline__
#define KV_INFINITY __int_as_float(0x7f800000)
// Declares the block's dynamic shared memory as bytes.
#define KV_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
// KV_KERNEL(name, threads, Arguments, function): a kernel that the program finds by its name.
#define KV_KERNEL(name, threads, Arguments, ...)                                                                       \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Arguments arguments) {          \
        __VA_ARGS__(arguments);                                                                                        \
    }
#else
#include "cuda.h"
#define KV_FN inline
#define KV_INFINITY __builtin_inff()
#define KV_SHARED(name) unsigned char* const name = emulator::shared_memory()
#define KV_KERNEL(name, threads, Arguments, ...)                                                                       \
    static void name##_entry(const void* arguments) { __VA_ARGS__(*static_cast<const Arguments*>(arguments)); }        \
    extern "C" const emulator::Kernel name;                                                                            \
    const emulator::Kernel name = {name##_entry, sizeof(Arguments), threads};
#endif

typedef uint16_t u16;  // the bits of a bf16 or an f16
typedef uint32_t u32;

#ifdef __CUDACC__

KV_FN u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// 16 bytes into shared memory, of which those from `source_bytes` on become zero.
KV_FN void copy_async(void* to, const void* from, int source_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(source_bytes)
                 : "memory");
}
KV_FN void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most LEFT of this thread's latest groups are under way.
template <int LEFT>
KV_FN void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Four matrices of 8 x 8 halves; lane l names row l % 8 of matrix l / 8.
KV_FN void ldmatrix(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
KV_FN void ldmatrix_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Loads of what no block of the launch writes. The compiler cannot know that a pointer out of a table is global, and
// would load generically.
KV_FN uint4 load16(const void* p) {
    uint4 x;
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(p));
    return x;
}
KV_FN uint2 load8(const void* p) {
    uint2 x;
    asm("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(p));
    return x;
}
KV_FN u32 load4(const void* p) {
    u32 x;
    asm("ld.global.nc.u32 %0, [%1];" : "=r"(x) : "l"(p));
    return x;
}
KV_FN void store16(void* p, uint4 x) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
KV_FN void store4(void* p, u32 x) { asm volatile("st.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory"); }

KV_FN float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
KV_FN u32 shuffle_xor(u32 x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

KV_FN float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
KV_FN float fast_log2(float x) { return __log2f(x); }

// d[16][8] += a[16][16] b[16][8] in fragments; `pack` rounds two numbers into one register, `low` first.
struct Bf16 {
    static KV_FN void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
    static KV_FN u32 pack(float low, float high) {
        u32 r;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
        return r;
    }
    static KV_FN float low(u32 pair) { return __uint_as_float(pair << 16); }
    static KV_FN float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
};
struct F16 {
    static KV_FN void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
    static KV_FN u32 pack(float low, float high) {
        u32 r;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
        return r;
    }
    static KV_FN float low(u32 pair) {
        float x;
        asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(x) : "r"(pair));
        return x;
    }
    static KV_FN float high(u32 pair) {
        float x;
        asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(x) : "r"(pair));
        return x;
    }
};

#else

// The last argument is the caller's place in the kernel.
#define KV_SITE emulator::Site site = emulator::Site::here()
inline void copy_async(void* to, const void* from, int source_bytes, KV_SITE) {
    emulator::copy_async(to, from, source_bytes, site);
}
inline void commit_copies(KV_SITE) { emulator::commit_copies(site); }
template <int LEFT>
inline void wait_copies(KV_SITE) {
    emulator::wait_copies(LEFT, site);
}
inline void ldmatrix(u32 (&r)[4], const void* row, KV_SITE) { emulator::ldmatrix_x4(r, row, false, site); }
inline void ldmatrix_transposed(u32 (&r)[4], const void* row, KV_SITE) { emulator::ldmatrix_x4(r, row, true, site); }
inline uint4 load16(const void* p, KV_SITE) {
    uint4 x;
    emulator::load(&x, p, 16, site);
    return x;
}
inline uint2 load8(const void* p, KV_SITE) {
    uint2 x;
    emulator::load(&x, p, 8, site);
    return x;
}
inline u32 load4(const void* p, KV_SITE) {
    u32 x;
    emulator::load(&x, p, 4, site);
    return x;
}
inline void store16(void* p, uint4 x, KV_SITE) { emulator::store(p, &x, 16, site); }
inline void store4(void* p, u32 x, KV_SITE) { emulator::store(p, &x, 4, site); }
inline u32 shuffle_xor(u32 x, int mask, KV_SITE) { return emulator::shuffle_xor(x, mask, site); }
inline float shuffle_xor(float x, int mask, KV_SITE) {
    return emulator::float_of(emulator::shuffle_xor(emulator::bits_of(x), mask, site));
}
inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_log2(float x) { return log2f(x); }
struct Bf16 {
    static void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, KV_SITE) {
        emulator::mma_16x8x16(d, a, b0, b1, emulator::Element::Bf16, site);
    }
    static u32 pack(float low, float high) { return emulator::to_bf16(low) | u32(emulator::to_bf16(high)) << 16; }
    static float low(u32 pair) { return emulator::from_bf16(u16(pair)); }
    static float high(u32 pair) { return emulator::from_bf16(u16(pair >> 16)); }
};
struct F16 {
    static void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, KV_SITE) {
        emulator::mma_16x8x16(d, a, b0, b1, emulator::Element::F16, site);
    }
    static u32 pack(float low, float high) { return emulator::to_f16(low) | u32(emulator::to_f16(high)) << 16; }
    static float low(u32 pair) { return emulator::from_f16(u16(pair)); }
    static float high(u32 pair) { return emulator::from_f16(u16(pair >> 16)); }
};
#undef KV_SITE

#endif

KV_FN int least(int a, int b) { return a < b ? a : b; }
KV_FN int most(int a, int b) { return a > b ? a : b; }
// A NaN on the left is dropped, as in fmaxf; unlike fmaxf it is one instruction in either compiler.
KV_FN float larger(float a, float b) { return a > b ? a : b; }

// Sums of a warp's 32 values, in every lane; the order is fixed.
KV_FN float warp_sum(float x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}
