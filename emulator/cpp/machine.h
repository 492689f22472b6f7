// The emulated card: runs a kernel's blocks one after the other, every thread as a fiber, and checks what they do.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "cuda.h"
#include "fiber.h"
#include "memory.h"

namespace emulator {

// A place in a kernel: its site where the emulator was called, the code's address where an access was instrumented.
struct Place {
    Site site{nullptr, 0};
    const void* code = nullptr;
};

// What launches did, summed.
struct Counters {
    uint64_t products = 0, matrix_loads = 0, bank_conflicts = 0, copies = 0, barriers = 0, read_bytes = 0,
             written_bytes = 0;
};

// Which of the threads that can run goes on.
enum class Schedule { InOrder, Reverse, Random, WarpAhead };

class Machine {
public:
    Memory memory;
    Counters counters;

    // Runs a kernel. False if it did something wrong: `fault` says what, and the launch ended there.
    bool launch(const Kernel& kernel, const void* arguments, Index3 grid, size_t shared_bytes, uint64_t seed,
                Schedule schedule);
    const std::string& fault() const { return fault_; }
    const Place& fault_place() const { return fault_place_; }

    // From now on the synchronisation at this place does nothing. A line of 0 mutes none.
    void mute(const char* file, int line) {
        muted_file_ = file;
        muted_line_ = line;
    }
    // The sites of synchronisation that were reached so far.
    const std::vector<Site>& synchronisations() const { return synchronisations_; }

    // ---- called by the kernel's threads ----
    enum class Touch { Read, Write, Issue, Land };
    void touch(const void* p, size_t bytes, Touch touch, const Place& place);
    [[noreturn]] void fail(const std::string& what, const Place& place);
    Index3 thread_index() const { return {now_->index, 0, 0}; }
    Index3 block_index() const { return block_index_; }
    Index3 grid_size() const { return grid_; }
    unsigned char* shared_memory() const { return shared_->base(); }
    void sync_threads(Site site);
    void sync_warp(Site site);
    uint32_t shuffle_xor(uint32_t value, int mask, Site site);
    void ldmatrix_x4(uint32_t (&fragments)[4], const void* row, bool transposed, Site site);
    void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Element element, Site site);
    void copy_async(void* to, const void* from, int source_bytes, Site site);
    void commit_copies(Site site);
    void wait_copies(int left, Site site);
    void load(void* to, const void* from, size_t bytes, Site site);
    void store(void* to, const void* from, size_t bytes, Site site);

private:
    struct Copy { void* to; const void* from; int source_bytes, group; };
    struct Thread {
        Fiber fiber;
        unsigned index = 0;
        Site site{nullptr, 0};
        std::vector<Copy> copies;
        int groups = 0;
    };
    enum class Instruction { SyncWarp, Shuffle, LoadMatrix, Product };
    struct Lane {
        uint32_t in[10], out[4];
        const unsigned char* row;
    };
    struct Warp {
        unsigned arrived = 0;
        Instruction instruction = Instruction::SyncWarp;
        int parameter = 0;
        Site site{nullptr, 0};
        uint32_t barriers = 0;
        Lane lanes[32];
    };
    static void run_thread();

    void run_block(unsigned threads);
    void leave(Thread& thread);
    void run_next();
    void resume(Thread& thread);
    bool is_muted(Site site);
    Lane& rendezvous(Instruction instruction, int parameter, Site site);
    void finish_product(Warp& warp);
    void finish_matrix_load(Warp& warp);
    Moment moment() const;
    bool unordered(const Moment& earlier, const Moment& now) const;
    uint32_t random_below(uint32_t n);

    Warp& warp() { return warps_[now_->index / 32]; }
    Lane& lane() { return warp().lanes[now_->index % 32]; }

    std::vector<std::unique_ptr<Thread>> threads_;
    std::vector<Warp> warps_;
    std::vector<unsigned> ready_;
    Thread host_;
    Thread* now_ = nullptr;
    std::unique_ptr<Region> shared_, arguments_;
    const Kernel* kernel_ = nullptr;
    Index3 grid_{}, block_index_{};
    Schedule schedule_ = Schedule::InOrder;
    uint64_t random_ = 1;
    unsigned live_ = 0, waiting_ = 0;
    Site barrier_{nullptr, 0};
    uint32_t block_ = 0, first_block_ = 0, barriers_ = 0;
    std::string fault_;
    Place fault_place_;
    std::string muted_file_;
    int muted_line_ = 0;
    std::vector<Site> synchronisations_;
};

// The machine whose kernel this operating system thread runs.
extern thread_local Machine* running __attribute__((tls_model("initial-exec")));

}  // namespace emulator
