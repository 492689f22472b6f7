// What a kernel's code calls because of how it was compiled. With -fsanitize=thread the compiler calls `__tsan_*` before
// every access, with -fsanitize=bounds, shift and signed-integer-overflow `__ubsan_handle_*` when one of them goes wrong.
// No sanitizer is linked: these are the only definitions.
#include "machine.h"

using emulator::Machine;
using emulator::running;

namespace {

void access(const void* p, size_t bytes, Machine::Touch touch, const void* code, bool aligned) {
    if (!running) return;  // initialisation of a library that is being loaded
    if (aligned && uintptr_t(p) % bytes) running->fail("an access that is not aligned to its size", {{nullptr, 0}, code});
    running->touch(p, bytes, touch, {{nullptr, 0}, code});
}

// The beginning of what the compiler hands to every handler.
struct Source { const char* file; uint32_t line, column; };

[[noreturn]] void undefined(const char* what, const void* data) {
    const Source& source = *static_cast<const Source*>(data);
    running->fail(what, {{source.file, int(source.line)}, nullptr});
}

}  // namespace

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
#define HOOKS(n)                                                                                              \
    void __tsan_read##n(void* p) { access(p, n, Machine::Touch::Read, __builtin_return_address(0), true); }   \
    void __tsan_write##n(void* p) { access(p, n, Machine::Touch::Write, __builtin_return_address(0), true); } \
    void __tsan_unaligned_read##n(void* p) {                                                                  \
        access(p, n, Machine::Touch::Read, __builtin_return_address(0), false);                               \
    }                                                                                                         \
    void __tsan_unaligned_write##n(void* p) {                                                                 \
        access(p, n, Machine::Touch::Write, __builtin_return_address(0), false);                              \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#undef HOOKS
void __tsan_read_range(void* p, size_t n) { access(p, n, Machine::Touch::Read, __builtin_return_address(0), false); }
void __tsan_write_range(void* p, size_t n) { access(p, n, Machine::Touch::Write, __builtin_return_address(0), false); }

void __ubsan_handle_out_of_bounds(void* data, void*) { undefined("index beyond a local array", data); }
void __ubsan_handle_shift_out_of_bounds(void* data, void*, void*) { undefined("shift by too many bits", data); }
void __ubsan_handle_add_overflow(void* data, void*, void*) { undefined("overflow of an addition", data); }
void __ubsan_handle_sub_overflow(void* data, void*, void*) { undefined("overflow of a subtraction", data); }
void __ubsan_handle_mul_overflow(void* data, void*, void*) { undefined("overflow of a product", data); }
void __ubsan_handle_negate_overflow(void* data, void*) { undefined("overflow of a negation", data); }
void __ubsan_handle_divrem_overflow(void* data, void*, void*) { undefined("division by zero", data); }
}

namespace emulator {

Index3 thread_index() { return running->thread_index(); }
Index3 block_index() { return running->block_index(); }
Index3 grid_size() { return running->grid_size(); }
unsigned char* shared_memory() { return running->shared_memory(); }
void sync_threads(Site site) { running->sync_threads(site); }
void sync_warp(Site site) { running->sync_warp(site); }
void copy_async(void* to, const void* from, int bytes, Site site) { running->copy_async(to, from, bytes, site); }
void commit_copies(Site site) { running->commit_copies(site); }
void wait_copies(int left, Site site) { running->wait_copies(left, site); }
uint32_t shuffle_xor(uint32_t value, int mask, Site site) { return running->shuffle_xor(value, mask, site); }
void ldmatrix_x4(uint32_t (&fragments)[4], const void* row, bool transposed, Site site) {
    running->ldmatrix_x4(fragments, row, transposed, site);
}
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Element element, Site site) {
    running->mma_16x8x16(d, a, b0, b1, element, site);
}
void load(void* to, const void* from, size_t bytes, Site site) { running->load(to, from, bytes, site); }
void store(void* to, const void* from, size_t bytes, Site site) { running->store(to, from, bytes, site); }

}  // namespace emulator
