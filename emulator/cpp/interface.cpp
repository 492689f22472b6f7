// The emulator as the Rust crate calls it (`src/card.rs`).
#include <cstring>
#include <dlfcn.h>

#include "machine.h"

using emulator::Machine;

extern "C" {

Machine* emulator_new() { return new Machine; }
void emulator_free(Machine* machine) { delete machine; }

void* emulator_allocate(Machine* machine, size_t bytes, uint32_t content) {
    return machine->memory.allocate(bytes, emulator::Content(content)).base();
}

// False if the bytes do not lie in one allocation.
bool emulator_write(Machine* machine, void* to, const void* from, size_t bytes) {
    emulator::Region* const region = machine->memory.find(to);
    if (!region || !region->contains(to, bytes)) return false;
    region->write(to, from, bytes);
    return true;
}

// How many of the bytes nobody wrote; all of them if they do not lie in one allocation.
size_t emulator_read(Machine* machine, void* to, const void* from, size_t bytes) {
    emulator::Region* const region = machine->memory.find(from);
    if (!region || !region->contains(from, bytes)) return bytes;
    return region->read(to, from, bytes);
}

void emulator_release(Machine* machine, void* base) { machine->memory.release(base); }

void emulator_clear(Machine* machine) { machine->memory.clear(); }

bool emulator_launch(Machine* machine, const emulator::Kernel* kernel, const void* arguments, const uint32_t* grid,
                     size_t shared_bytes, uint64_t seed) {
    return machine->launch(*kernel, arguments, {grid[0], grid[1], grid[2]}, shared_bytes, seed,
                           emulator::Schedule(seed % 4));
}

const char* emulator_fault(Machine* machine) { return machine->fault().c_str(); }

// Where it happened: a file and a line, or (line 0) the library and an offset in it.
void emulator_fault_place(Machine* machine, const char** file, uint32_t* line, size_t* offset) {
    const emulator::Place& place = machine->fault_place();
    *file = place.site.file;
    *line = uint32_t(place.site.line);
    Dl_info info;
    if (place.code && dladdr(place.code, &info))
        *offset = size_t(static_cast<const char*>(place.code) - static_cast<const char*>(info.dli_fbase)) - 1;
}

void emulator_counters(Machine* machine, emulator::Counters* counters) { *counters = machine->counters; }

void emulator_mute(Machine* machine, const char* file, uint32_t line) { machine->mute(file, int(line)); }

bool emulator_synchronisation(Machine* machine, size_t index, const char** file, uint32_t* line) {
    const auto& sites = machine->synchronisations();
    if (index >= sites.size()) return false;
    *file = sites[index].file;
    *line = uint32_t(sites[index].line);
    return true;
}
}
