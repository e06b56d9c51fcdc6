#pragma once

// The shapes of AMX's tile registers.

#if defined(__x86_64__)

#  include <immintrin.h>

#  include <cstdint>

#  include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};  // at most 64; the processor has 8 registers
  std::uint8_t rows[16] = {};        // at most 16

  void set(int tile, Index tile_rows, Index bytes) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<std::uint16_t>(bytes);
  }
};
static_assert(sizeof(TileShapes) == 64);

// What was written so far is in memory: the intrinsics of GCC do not say what tile loads read.
inline void finish_writing(const void* data) { asm volatile("" : : "r"(data) : "memory"); }

// Gives the tile registers of this thread their shapes; _tile_release() takes them again.
__attribute__((target("amx-tile"))) inline void set_tile_shapes(const TileShapes& shapes) {
  finish_writing(&shapes);
  _tile_loadconfig(&shapes);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait

#endif
