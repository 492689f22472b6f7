// Rows of the embedding as the residual stream, in f32.
#include "instances.cuh"
#include "device.cuh"

struct EmbeddingArguments {
    const u16* table;   // [vocab][width]
    const u32* tokens;  // [tokens]
    float* out;         // [tokens][width]
    int width;          // a multiple of 8
    int count;          // tokens
};

// Grid: tokens.
template <class T>
KV_FN void embedding(const EmbeddingArguments& a) {
    const u16* const row = a.table + size_t(a.tokens[blockIdx.x]) * a.width;
    float* const out = a.out + size_t(blockIdx.x) * a.width;
    for (int i = threadIdx.x * 8; i < a.width; i += 128 * 8) {
        const uint4 x = load16(row + i);
        const u32 pairs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            out[i + 2 * j] = T::low(pairs[j]);
            out[i + 2 * j + 1] = T::high(pairs[j]);
        }
    }
}

#define INSTANCE(T, name) KV_KERNEL(embedding_##name, 128, EmbeddingArguments, embedding<T>)
KV_EACH_ELEMENT(INSTANCE)
