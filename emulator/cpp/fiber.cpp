#include "fiber.h"

#include <cstring>
#include <sys/mman.h>

namespace emulator {

#if defined(__x86_64__)
// The registers that a call keeps, on the old stack; the same from the new one.
extern "C" void emulator_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(R"(
.text
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, . - emulator_switch
)");
#endif

Fiber::~Fiber() {
    if (stack_) munmap(stack_, STACK);
}

void Fiber::start(void (*entry)(), unsigned index) {
    if (!stack_)
        stack_ = static_cast<unsigned char*>(
            mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
#if defined(__x86_64__)
    // Tops at equal offsets would share the same cache sets: twice as slow. Aligned as after a call.
    void** top = reinterpret_cast<void**>(stack_ + STACK - index % 32 * 512) - 3;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    top -= 6;
    std::memset(top, 0, 6 * sizeof(void*));
    top_ = top;
#else
    (void)index;
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = STACK;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
}

void Fiber::switch_to(Fiber& other) {
#if defined(__x86_64__)
    emulator_switch(&top_, other.top_);
#else
    swapcontext(&context_, &other.context_);
#endif
}

}  // namespace emulator
