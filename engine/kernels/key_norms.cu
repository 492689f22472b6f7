// Euclidean norm of each rotated key. A warp takes one key.
#include "instances.cuh"
#include "device.cuh"

struct KeyNormArguments {
    const u16* k;  // [kv_heads][capacity][D], of which kv_len positions are there
    float* out;    // [kv_heads][kv_len]
    int kv_len, capacity, kv_heads;
};

// Grid: (blocks of 4 positions, kv_heads).
template <class T, int D>
KV_FN void key_norms(const KeyNormArguments& a) {
    const int position = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
    if (position >= a.kv_len) return;
    float sum = 0.f;
    if (lane < D / 8) {
        const uint4 x = load16(a.k + (size_t(head) * a.capacity + position) * D + lane * 8);
        const u32 pairs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float low = T::low(pairs[i]), high = T::high(pairs[i]);
            sum += low * low + high * high;
        }
    }
    sum = warp_sum(sum);
    if (lane == 0) a.out[size_t(head) * a.kv_len + position] = sqrtf(sum);
}

#define INSTANCE(T, name, D) KV_KERNEL(key_norms_##name##_##D, 128, KeyNormArguments, key_norms<T, D>)
KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)
