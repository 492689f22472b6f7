// Adds a block's output to the residual stream and norms the sum (RMS norm), rounded once.
#include "instances.cuh"
#include "device.cuh"

struct AddNormArguments {
    float* residual;    // [tokens][width], in place
    const u16* add;     // [tokens][width]; null adds nothing
    const u16* weight;  // [width]
    u16* out;           // [tokens][width]
    int width;          // a multiple of 8
    float epsilon;
    int count;          // tokens
};

// Shared memory: 8 floats. Grid: tokens.
template <class T>
KV_FN void add_norm(const AddNormArguments& a) {
    constexpr int THREADS = 256, WARPS = THREADS / 32;
    KV_SHARED(memory);
    float* const parts = reinterpret_cast<float*>(memory);
    const size_t at = size_t(blockIdx.x) * a.width;
    float squares = 0.f;
    for (int i = threadIdx.x * 2; i < a.width; i += THREADS * 2) {
        float* const x = a.residual + at + i;
        if (a.add) {
            const u32 pair = load4(a.add + at + i);
            x[0] += T::low(pair);
            x[1] += T::high(pair);
        }
        squares += x[0] * x[0] + x[1] * x[1];
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = squares;
    __syncthreads();  // all warps' sums are there
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) sum += parts[w];
    const float inverse = 1.f / sqrtf(sum / float(a.width) + a.epsilon);
    for (int i = threadIdx.x * 2; i < a.width; i += THREADS * 2) {
        const float* const x = a.residual + at + i;  // the same thread's numbers as above
        const u32 weight = load4(a.weight + i);
        store4(a.out + at + i, T::pack(x[0] * inverse * T::low(weight), x[1] * inverse * T::high(weight)));
    }
}

#define INSTANCE(T, name) KV_KERNEL(add_norm_##name, 256, AddNormArguments, add_norm<T>)
KV_EACH_ELEMENT(INSTANCE)
