// Puts the partial results of `ragged_decode` together, in the order of each row's list.
#include "instances.cuh"
#include "device.cuh"

struct MergeArguments {
    const float* part_out;    // [parts][D]
    const float2* part_sums;  // [parts]: the maximum in units of log2, the sum of weights
    const int* parts;         // the parts of row 0, of row 1, ...
    const int* first;         // [rows + 1]: where a row's parts start
    u16* out;                 // [rows][D]; zero for a row without entries
    int rows;
};

// Grid: rows. A thread takes two columns.
template <class T, int D>
KV_FN void merge(const MergeArguments& a) {
    const int row = blockIdx.x, column = threadIdx.x * 2, first = a.first[row], last = a.first[row + 1];
    if (column >= D) return;
    float m = -KV_INFINITY;
    for (int i = first; i < last; ++i) m = larger(m, a.part_sums[a.parts[i]].x);
    float low = 0.f, high = 0.f, sum = 0.f;
    for (int i = first; i < last; ++i) {
        const int part = a.parts[i];
        const float2 sums = a.part_sums[part];
        if (sums.x == -KV_INFINITY) continue;  // no entries
        const float factor = fast_exp2(sums.x - m);
        low += factor * a.part_out[size_t(part) * D + column];
        high += factor * a.part_out[size_t(part) * D + column + 1];
        sum += factor * sums.y;
    }
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    store4(a.out + size_t(row) * D + column, T::pack(low * inverse, high * inverse));
}

#define INSTANCE(T, name, D) KV_KERNEL(merge_##name##_##D, (D + 63) / 64 * 32, MergeArguments, merge<T, D>)
KV_EACH_ELEMENT_AND_HEAD_SIZE(INSTANCE)
