// Every access of a kernel, checked; and asynchronous copies.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emulator {

Moment Machine::moment() const {
    const unsigned thread = now_->index;
    return {block_, barriers_, warps_[thread / 32].barriers, uint16_t(thread), false};
}

// Whether no barrier lies between an earlier moment and now, though another thread may have been there.
bool Machine::unordered(const Moment& earlier, const Moment& now) const {
    if (earlier.block < first_block_) return false;
    if (earlier.block != now.block) return true;
    if (earlier.barriers != now.barriers) return false;
    if (earlier.thread == now.thread && !earlier.several) return false;
    return earlier.thread / 32 != now.thread / 32 || earlier.warp_barriers == now.warp_barriers;
}

void Machine::touch(const void* p, size_t bytes, Touch touch, const Place& place) {
    if (now_->fiber.on_stack(uintptr_t(p))) return;
    Region* const region = shared_->contains(p)      ? shared_.get()
                           : arguments_->contains(p) ? arguments_.get()
                                                     : memory.find(p);
    if (!region || !region->contains(p, bytes)) fail("out of bounds", place);
    if (region != shared_.get() && region != arguments_.get())
        (touch == Touch::Read ? counters.read_bytes : counters.written_bytes) += bytes;
    if (!region->writable()) {
        if (touch != Touch::Read) fail("writes what is read-only", place);
        return;
    }
    const Moment now = moment();
    Cell* cell = region->cells(p);
    Cell* const end = region->cells(static_cast<const unsigned char*>(p) + bytes - 1) + 1;
    for (; cell != end; ++cell) {
        if (touch == Touch::Land) {
            cell->written = now;
            cell->state = Cell::WRITTEN;
            continue;
        }
        if (cell->state == Cell::UNDER_WAY) fail("touches the target of an asynchronous copy under way", place);
        if (cell->state == Cell::WRITTEN && unordered(cell->written, now))
            fail(touch == Touch::Read ? "race: reads what another thread writes" : "race: two threads write", place);
        if (touch == Touch::Read) {
            if (cell->state == Cell::UNWRITTEN) fail("reads what nobody wrote", place);
            Moment& last = cell->read;
            const bool same_warp = last.block == now.block && last.thread / 32 == now.thread / 32;
            if (!same_warp) cell->read_elsewhere = last;
            const bool several = same_warp && last.barriers == now.barriers &&
                                 last.warp_barriers == now.warp_barriers &&
                                 (last.several || last.thread != now.thread);
            last = now;
            last.several = several;
        } else {
            if (unordered(cell->read, now) || unordered(cell->read_elsewhere, now))
                fail("race: writes what another thread reads", place);
            cell->written = now;
            cell->state = touch == Touch::Issue ? Cell::UNDER_WAY : Cell::WRITTEN;
        }
    }
}

void Machine::copy_async(void* to, const void* from, int source_bytes, Site site) {
    const Place place{site, nullptr};
    ++counters.copies;
    if (uintptr_t(to) % 16 || (source_bytes && uintptr_t(from) % 16))
        fail("an asynchronous copy that is not aligned to 16 bytes", place);
    if (!shared_->contains(to, 16)) fail("an asynchronous copy to outside shared memory", place);
    if (source_bytes) touch(from, size_t(source_bytes), Touch::Read, place);
    touch(to, 16, Touch::Issue, place);
    std::memset(to, POISON, 16);
    now_->site = site;
    now_->copies.push_back({to, from, source_bytes, now_->groups});
}

void Machine::commit_copies(Site site) {
    if (is_muted(site)) return;
    ++now_->groups;
}

void Machine::wait_copies(int left, Site site) {
    if (is_muted(site)) return;
    auto& copies = now_->copies;
    auto kept = copies.begin();
    for (const Copy& copy : copies) {
        if (copy.group >= now_->groups - left) {
            *kept++ = copy;
            continue;
        }
        std::memset(copy.to, 0, 16);
        if (copy.source_bytes) std::memcpy(copy.to, copy.from, size_t(copy.source_bytes));
        touch(copy.to, 16, Touch::Land, {site, nullptr});
    }
    copies.erase(kept, copies.end());
}

void Machine::load(void* to, const void* from, size_t bytes, Site site) {
    if (uintptr_t(from) % bytes) fail("a load that is not aligned to its size", {site, nullptr});
    touch(from, bytes, Touch::Read, {site, nullptr});
    Region* const region = memory.find(from);
    if (!region) fail("a load from elsewhere than device memory", {site, nullptr});
    if (region->writable() && region->cells(from)->written.block >= first_block_)
        fail("a load past the caches of what this launch writes", {site, nullptr});
    std::memcpy(to, from, bytes);
}

void Machine::store(void* to, const void* from, size_t bytes, Site site) {
    if (uintptr_t(to) % bytes) fail("a store that is not aligned to its size", {site, nullptr});
    touch(to, bytes, Touch::Write, {site, nullptr});
    std::memcpy(to, from, bytes);
}

}  // namespace emulator
