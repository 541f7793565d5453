// Runs a kernel's blocks one after the other, each block's threads as fibers.
#include "emulate.h"

#include <csetjmp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ucontext.h>

namespace emulate {

thread_local Dim thread_index, block_index, block_dim, grid_dim;

namespace {

constexpr size_t STACK = 64 << 10;
constexpr unsigned LANES = 32;
/// Orders of threads.
constexpr unsigned LOCKSTEP = 0, LAST_WARP_FIRST = 1;
constexpr unsigned char POISON = 0xff;  // f32, f16, bf16 and f64 of these bytes are NaN

struct Fiber {
  ucontext_t start;
  jmp_buf at;
  bool started, done;
  Wait wait;
  Dim index;
  unsigned exchanges;
  std::unique_ptr<char[]> stack;
};

struct Piece {
  std::vector<char> bytes;
  size_t block;
};

struct Warp {
  // Two buffers: a lane may be one shuffle ahead of the others, no more.
  char values[2][LANES][8];
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  jmp_buf scheduler;
  Fiber* running = nullptr;
  std::map<const void*, Piece> pieces;
  std::vector<char> dynamic;
  size_t block = 0;
  void (*call)(const void*, void**) = nullptr;
  const void* kernel = nullptr;
  void** arguments = nullptr;
};

thread_local Machine machine;

struct Entry {
  void (*call)(const void*, void**);
  const void* kernel;
};

std::map<std::string, Entry>& entries() {
  static std::map<std::string, Entry> all;
  return all;
}

void body() {
  machine.call(machine.kernel, machine.arguments);
  machine.running->done = true;
  _longjmp(machine.scheduler, 1);
}

void resume(Fiber& fiber) {
  machine.running = &fiber;
  thread_index = fiber.index;
  fiber.wait = NOTHING;
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

/// Lets a warp's lanes go on that wait for each other. Answers whether they do.
bool release_warp(size_t first, const char** wrong) {
  auto& fibers = machine.fibers;
  unsigned here = 0;
  for (size_t lane = first; lane < first + LANES; ++lane) here += fibers[lane].wait == WARP && !fibers[lane].done;
  if (here == 0) return false;
  if (here != LANES) {
    *wrong = "a shuffle or warp barrier that not all lanes reach";
    return false;
  }
  for (size_t lane = first; lane < first + LANES; ++lane) fibers[lane].wait = NOTHING;
  return true;
}

/// Runs a warp's lanes to where they wait or end.
void run_warp(size_t first, bool backwards) {
  for (size_t i = 0; i < LANES; ++i) {
    Fiber& fiber = machine.fibers[first + (backwards ? LANES - 1 - i : i)];
    if (!fiber.done && fiber.wait == NOTHING) resume(fiber);
  }
}

/// In lockstep all warps go from one wait to the next together; otherwise each goes as far as it can
/// before the others, which shows where a barrier of the block is missing.
const char* run_block(unsigned order) {
  auto& fibers = machine.fibers;
  machine.block += 1;
  machine.dynamic.assign(machine.dynamic.size(), static_cast<char>(POISON));
  for (size_t i = 0; i < fibers.size(); ++i) {
    auto& fiber = fibers[i];
    fiber.started = fiber.done = false;
    fiber.wait = NOTHING;
    fiber.exchanges = 0;
    fiber.index = {static_cast<unsigned>(i), 0, 0};
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, body, 0);
  }
  const size_t count = fibers.size();
  const bool backwards = order == LAST_WARP_FIRST;
  const char* wrong = nullptr;
  for (;;) {
    bool moved = false;
    for (size_t at = 0; at < count; at += LANES) {
      const size_t first = backwards ? count - LANES - at : at;
      do {
        run_warp(first, backwards);
      } while (order != LOCKSTEP && release_warp(first, &wrong));
    }
    for (size_t first = 0; first < count && order == LOCKSTEP; first += LANES) moved |= release_warp(first, &wrong);
    if (wrong != nullptr) return wrong;
    if (moved) continue;
    size_t done = 0, block = 0;
    for (auto& fiber : fibers) {
      done += fiber.done;
      block += !fiber.done && fiber.wait == BLOCK;
    }
    if (done == count) return nullptr;
    if (block != count) return "a barrier that not all threads reach";
    for (auto& fiber : fibers) fiber.wait = NOTHING;
  }
}

}  // namespace

void wait(Wait where) {
  Fiber& fiber = *machine.running;
  fiber.wait = where;
  if (_setjmp(fiber.at) == 0) _longjmp(machine.scheduler, 1);
}

void exchange(void* value, size_t bytes, unsigned lane) {
  Fiber& fiber = *machine.running;
  auto& values = machine.warps[thread_index.x / LANES].values[fiber.exchanges++ % 2];
  std::memcpy(values[thread_index.x % LANES], value, bytes);
  wait(WARP);
  std::memcpy(value, values[lane % LANES], bytes);
}

void* shared(const void* place, size_t bytes) {
  Piece& piece = machine.pieces[place];
  if (piece.block != machine.block) {
    piece.block = machine.block;
    piece.bytes.assign(bytes, static_cast<char>(POISON));
  }
  return piece.bytes.data();
}

void* dynamic_shared() { return machine.dynamic.data(); }

Registered::Registered(const char* name, void (*call)(const void*, void**), const void* kernel) {
  entries()[name] = {call, kernel};
}

}  // namespace emulate

/// Runs a kernel. 0, or 1 with what is wrong in `error`.
extern "C" int emulate_launch(const char* name, const unsigned* grid, unsigned threads, size_t shared, void** arguments,
                              unsigned order, char* error, size_t room) {
  using namespace emulate;
  const auto found = entries().find(name);
  if (found == entries().end() || threads == 0 || threads % LANES != 0 || threads > 1024) {
    std::snprintf(error, room, "no kernel %s for %u threads", name, threads);
    return 1;
  }
  machine.call = found->second.call;
  machine.kernel = found->second.kernel;
  machine.arguments = arguments;
  while (machine.fibers.size() > threads) machine.fibers.pop_back();
  while (machine.fibers.size() < threads) {
    machine.fibers.emplace_back();
    machine.fibers.back().stack.reset(new char[STACK]);
  }
  machine.warps.resize(threads / LANES);
  machine.dynamic.resize(shared);
  block_dim = {threads, 1, 1};
  grid_dim = {grid[0], grid[1], grid[2]};
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; ++x) {
        block_index = {x, y, z};
        if (const char* wrong = run_block(order)) {
          std::snprintf(error, room, "%s, block (%u, %u, %u): %s", name, x, y, z, wrong);
          return 1;
        }
      }
  return 0;
}

/// The names of all kernels, a line each.
extern "C" void emulate_names(char* out, size_t room) {
  std::string all;
  for (const auto& [name, entry] : emulate::entries()) all += name + "\n";
  std::snprintf(out, room, "%s", all.c_str());
}
