#pragma once

/// \file
/// CachePages: rows per token that grow with a sequence, and that its copies share.

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "krait/core/bookings.hpp"
#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// The cache of one sequence: append-only rows, `floats_per_token` floats for every token, in pages
/// of 64 tokens. Copies share the pages until one of them writes (copy-on-write), so that a copy
/// costs a pointer per page, however long the text. A value; different copies may be used by
/// different threads.
class KRAIT_API CachePages {
 public:
  CachePages() noexcept = default;
  /// Of no rows; floats_per_token may be 0.
  explicit CachePages(Index floats_per_token) noexcept : floats_per_token_(floats_per_token) {}
  /// Shares the pages that hold rows, and none that are only reserved.
  CachePages(const CachePages& other);
  CachePages(CachePages&& other) noexcept = default;
  CachePages& operator=(const CachePages& other) { return *this = CachePages(other); }
  CachePages& operator=(CachePages&& other) noexcept = default;

  /// Takes over the rows of another cache of the same width, and keeps what was reserved.
  void copy_from(const CachePages& other);

  /// Tokens whose rows are there.
  Index rows() const noexcept { return rows_; }
  Index floats_per_token() const noexcept { return floats_per_token_; }

  /// Makes room for `more` tokens behind those that are there: afterwards they can be written, and
  /// nothing is allocated or copied by it, until the cache is copied. Errors: no_memory, after
  /// which everything is as it was.
  Result<void> reserve(Index more);

  /// Says that so many rows are there; at most those that were reserved.
  void set_rows(Index rows) noexcept { rows_ = rows; }

  /// Of positions 0, 64, …: what `row` points into.
  std::span<float* const> pages() const noexcept { return data_; }

  /// The row of a token in one of the bookings.
  std::span<const float> row(CacheSlot slot, Index token) const noexcept {
    return {cache_row(data_.data(), slot, token), static_cast<std::size_t>(slot.floats)};
  }

  /// Bytes of the pages that hold rows; copies count what they share.
  std::size_t bytes() const noexcept;

 private:
  // One page with its owners counted. std::shared_ptr does not say whether it is the only one in a
  // way that lets the only one write.
  class Page {
   public:
    Page() noexcept = default;
    static Page make(std::size_t bytes) noexcept;  // null without memory
    Page(const Page& other) noexcept : block_(other.block_) { retain(); }
    Page(Page&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
    Page& operator=(Page other) noexcept {
      std::swap(block_, other.block_);
      return *this;
    }
    ~Page() { release(); }
    float* data() const noexcept;
    bool is_shared() const noexcept;
    explicit operator bool() const noexcept { return block_ != nullptr; }

   private:
    struct Block;
    void retain() noexcept;
    void release() noexcept;
    Block* block_ = nullptr;
  };

  std::size_t used_pages() const noexcept;
  std::size_t page_bytes() const noexcept;

  Index floats_per_token_ = 0;
  Index rows_ = 0;
  std::vector<Page> pages_;   // those that hold rows, then reserved ones
  std::vector<float*> data_;  // of the pages
};

}  // namespace v0_1
}  // namespace krait
