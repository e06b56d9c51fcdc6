#pragma once

/// \file
/// CachePages: rows per token that grow with a sequence, and that its copies share.

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "krait/core/bookings.hpp"
#include "krait/core/error.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// The KV cache of one sequence: append-only rows of `floats_per_token` floats (4 bytes, which may
/// hold two numbers of 16 bits), one row per token, in pages of 64 tokens. Copies share pages until
/// one of them writes (copy-on-write), so a copy costs a pointer per page. A value; different
/// copies may be used by different threads.
class KRAIT_API CachePages {
 public:
  CachePages() noexcept = default;
  /// An empty cache; floats_per_token may be 0.
  explicit CachePages(Index floats_per_token) noexcept : floats_per_token_(floats_per_token) {}
  /// Shares the pages that hold rows. Pages that are only reserved are not copied.
  CachePages(const CachePages& other);
  CachePages(CachePages&& other) noexcept = default;
  CachePages& operator=(const CachePages& other) { return *this = CachePages(other); }
  CachePages& operator=(CachePages&& other) noexcept = default;

  /// Takes over the rows of another cache of the same width. Reserved pages stay reserved.
  void copy_from(const CachePages& other);

  /// Number of tokens that have rows.
  Index rows() const noexcept { return rows_; }
  Index floats_per_token() const noexcept { return floats_per_token_; }

  /// Makes room for the rows of `more` further tokens and makes their pages this cache's own:
  /// writing them then neither allocates nor copies, until the cache is copied. Errors: no_memory;
  /// the cache is unchanged.
  Result<void> reserve(Index more);

  /// Sets the number of rows, at most those that were reserved. Fewer rows: a rollback.
  void set_rows(Index rows) noexcept { rows_ = rows; }

  /// The pages of positions 0, 64, …, which `cache_row` takes.
  std::span<float* const> pages() const noexcept { return data_; }

  /// A token's row of one booking.
  TensorView row(CacheSlot slot, Index token) const noexcept {
    return {cache_row(data_.data(), slot, token), slot.dtype, {slot.floats}};
  }

  /// Bytes of the pages that hold rows. Pages that copies share count in each copy.
  std::size_t bytes() const noexcept;

 private:
  // A page with a count of its owners. std::shared_ptr would not do: its use_count does not
  // synchronise with the owner that has just let go, so the last one could not write safely.
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
