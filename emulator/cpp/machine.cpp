// Launches, blocks and threads: who runs, and what orders whom.
#include "machine.h"

#include <algorithm>
#include <cstdlib>

namespace emulator {

thread_local Machine* running = nullptr;

uint32_t Machine::random_below(uint32_t n) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return uint32_t((random_ >> 32) * n >> 32);
}

bool Machine::launch(const Kernel& kernel, const void* arguments, Index3 grid, size_t shared_bytes, uint64_t seed,
                     Schedule schedule) {
    fault_.clear();
    fault_place_ = {};
    kernel_ = &kernel;
    grid_ = grid;
    schedule_ = schedule;
    random_ = seed * 0x9e3779b97f4a7c15ull | 1;
    shared_ = std::make_unique<Region>(shared_bytes, Content::Writable);
    arguments_ = std::make_unique<Region>(kernel.argument_bytes, Content::Constant);
    arguments_->write(arguments_->base(), arguments, kernel.argument_bytes);
    while (threads_.size() < kernel.threads) threads_.push_back(std::make_unique<Thread>());
    first_block_ = block_ + 1;
    std::vector<unsigned> order(size_t(grid.x) * grid.y * grid.z);
    for (size_t i = 0; i < order.size(); ++i) order[i] = unsigned(i);
    if (schedule != Schedule::InOrder)
        for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_below(uint32_t(i))]);
    running = this;
    for (size_t i = 0; i < order.size() && fault_.empty(); ++i) {
        block_index_ = {order[i] % grid.x, order[i] / grid.x % grid.y, order[i] / grid.x / grid.y};
        run_block(kernel.threads);
    }
    running = nullptr;
    return fault_.empty();
}

void Machine::run_block(unsigned threads) {
    ++block_;
    shared_->poison();
    warps_.assign(threads / 32, Warp());
    live_ = threads;
    waiting_ = 0;
    ready_.clear();
    for (unsigned i = 0; i < threads; ++i) {
        Thread& thread = *threads_[i];
        thread.index = i;
        thread.copies.clear();
        thread.groups = 0;
        thread.fiber.start(run_thread, i);
        ready_.push_back(i);
    }
    now_ = &host_;
    run_next();
}

void Machine::run_thread() {
    Machine& machine = *running;
    machine.kernel_->entry(machine.arguments_->base());
    machine.leave(*machine.now_);
    std::abort();
}

void Machine::leave(Thread& thread) {
    if (!thread.copies.empty()) fail("ends with an asynchronous copy under way", {thread.site, nullptr});
    --live_;
    if (waiting_) fail("ends while other threads wait at a barrier", {thread.site, nullptr});
    run_next();
}

// Goes on with a thread that can run; with the host when none is left.
void Machine::run_next() {
    if (ready_.empty()) {
        if (live_ == 0) return resume(host_);
        Site site = barrier_;
        for (const Warp& warp : warps_)
            if (warp.arrived) site = warp.site;
        fail("deadlock: threads wait for others that ended or went another way", {site, nullptr});
    }
    size_t pick = 0;
    switch (schedule_) {
        case Schedule::InOrder: break;
        case Schedule::Reverse: pick = ready_.size() - 1; break;
        case Schedule::Random: pick = random_below(uint32_t(ready_.size())); break;
        case Schedule::WarpAhead:
            pick = random_below(uint32_t(ready_.size()));
            if (now_ == &host_) break;
            for (size_t i = ready_.size(); i-- > 0;)
                if (ready_[i] / 32 == now_->index / 32) {
                    pick = i;
                    break;
                }
    }
    Thread& next = *threads_[ready_[pick]];
    if (schedule_ == Schedule::InOrder) {
        ready_.erase(ready_.begin());
    } else {
        ready_[pick] = ready_.back();
        ready_.pop_back();
    }
    resume(next);
}

void Machine::resume(Thread& thread) {
    Thread& from = *now_;
    if (&from == &thread) return;
    now_ = &thread;
    from.fiber.switch_to(thread.fiber);
}

// Ends the launch: what is about to happen must not.
void Machine::fail(const std::string& what, const Place& place) {
    auto number = [](unsigned n) { return std::to_string(n); };
    const Index3 b = block_index_;
    fault_ = what + ", block (" + number(b.x) + ", " + number(b.y) + ", " + number(b.z) + ")";
    if (now_ != &host_) fault_ += " thread " + number(now_->index);
    fault_place_ = place;
    resume(host_);
    std::abort();
}

bool Machine::is_muted(Site site) {
    if (std::find(synchronisations_.begin(), synchronisations_.end(), site) == synchronisations_.end())
        synchronisations_.push_back(site);
    return site.line == muted_line_ && muted_file_ == site.file;
}

void Machine::sync_threads(Site site) {
    if (is_muted(site)) return;
    ++counters.barriers;
    if (warp().arrived) fail("a barrier while lanes of the warp wait at an instruction", {site, nullptr});
    if (live_ < 32 * warps_.size()) fail("a barrier after threads ended", {site, nullptr});
    now_->site = site;
    if (waiting_ == 0) barrier_ = site;
    else if (!(barrier_ == site)) fail("threads of a block at different barriers", {site, nullptr});
    if (++waiting_ == live_) {
        waiting_ = 0;
        ++barriers_;
        for (unsigned i = 0; i < live_; ++i) ready_.push_back(i);
    }
    run_next();
}

}  // namespace emulator
