// The largest logit of each row, the lowest index among equals; and the first logit that is no finite number.
#include "device.cuh"

struct ArgmaxArguments {
    const float* logits;  // [rows][vocab]
    u32* out;             // [rows][2]: the index; the index of the first NaN or infinity, else vocab
    int vocab, rows;
};

struct Best {
    float logit;
    u32 index, bad;
};
KV_FN Best better(Best a, Best b) {
    const bool second = b.logit > a.logit || (b.logit == a.logit && b.index < a.index);
    return {second ? b.logit : a.logit, second ? b.index : a.index, a.bad < b.bad ? a.bad : b.bad};
}

// Shared memory: 24 words. Grid: rows.
KV_FN void find_largest(const ArgmaxArguments& a) {
    constexpr int THREADS = 256, WARPS = THREADS / 32;
    KV_SHARED(memory);
    Best* const bests = reinterpret_cast<Best*>(memory);
    const float* const logits = a.logits + size_t(blockIdx.x) * a.vocab;
    Best best = {-KV_INFINITY, u32(a.vocab), u32(a.vocab)};
    for (u32 i = threadIdx.x; i < u32(a.vocab); i += THREADS) {
        const float logit = logits[i];
        const bool finite = logit - logit == 0.f;
        best = better(best, {logit, i, finite ? u32(a.vocab) : i});
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
        best = better(best,
                      {shuffle_xor(best.logit, mask), shuffle_xor(best.index, mask), shuffle_xor(best.bad, mask)});
    if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
    __syncthreads();  // all warps' are there
    if (threadIdx.x > 0) return;
#pragma unroll
    for (int w = 1; w < WARPS; ++w) best = better(best, bests[w]);
    a.out[2 * size_t(blockIdx.x)] = best.index;
    a.out[2 * size_t(blockIdx.x) + 1] = best.bad;
}

KV_KERNEL(argmax, 256, ArgmaxArguments, find_largest)
