// A thread of a kernel: a stack of its own, switched to and from by hand.
#pragma once
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
public:
    Fiber() = default;
    Fiber(const Fiber&) = delete;
    ~Fiber();

    // The next switch to it calls `entry`, which must never return.
    void start(void (*entry)(), unsigned index);
    void switch_to(Fiber& other);
    bool on_stack(uintptr_t address) const { return address - uintptr_t(stack_) < STACK; }

private:
    static constexpr size_t STACK = 64 << 10;
    unsigned char* stack_ = nullptr;
#if defined(__x86_64__)
    void* top_ = nullptr;
#else
    ucontext_t context_;
#endif
};

}  // namespace emulator
