#include "krait/core/cache_pages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

namespace krait {
inline namespace v0_1 {

struct alignas(64) CachePages::Page::Block {
  std::atomic<Index> owners{1};
};

CachePages::Page CachePages::Page::make(std::size_t bytes) noexcept {
  Page page;
  void* memory =
      ::operator new (sizeof(Block) + bytes, std::align_val_t{alignof(Block)}, std::nothrow);
  if (memory == nullptr) return page;
  page.block_ = new (memory) Block;
  std::memset(static_cast<std::byte*>(memory) + sizeof(Block), 0, bytes);
  return page;
}

float* CachePages::Page::data() const noexcept {
  return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(block_) + sizeof(Block));
}

// Acquire: reads of another owner before it released the page come before what is written now.
bool CachePages::Page::is_shared() const noexcept {
  return block_->owners.load(std::memory_order_acquire) > 1;
}

void CachePages::Page::retain() noexcept {
  if (block_ != nullptr) block_->owners.fetch_add(1, std::memory_order_relaxed);
}

void CachePages::Page::release() noexcept {
  if (block_ == nullptr || block_->owners.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  block_->~Block();
  ::operator delete (static_cast<void*>(block_), std::align_val_t{alignof(Block)});
}

std::size_t CachePages::used_pages() const noexcept {
  return static_cast<std::size_t>((rows_ + cache_page_tokens - 1) / cache_page_tokens);
}

std::size_t CachePages::page_bytes() const noexcept {
  return static_cast<std::size_t>(cache_page_tokens * floats_per_token_) * sizeof(float);
}

std::size_t CachePages::bytes() const noexcept {
  return floats_per_token_ > 0 ? used_pages() * page_bytes() : 0;
}

CachePages::CachePages(const CachePages& other)
    : floats_per_token_(other.floats_per_token_), rows_(other.rows_) {
  if (floats_per_token_ == 0) return;
  const auto used = static_cast<std::ptrdiff_t>(other.used_pages());
  pages_.assign(other.pages_.begin(), other.pages_.begin() + used);
  data_.assign(other.data_.begin(), other.data_.begin() + used);
}

void CachePages::copy_from(const CachePages& other) {
  if (this == &other) return;
  if (floats_per_token_ == 0) {
    rows_ = other.rows_;
    return;
  }
  // Pages that only this cache has and no longer needs stay reserved. Otherwise verifications,
  // which copy a state again and again, would allocate their last page each time.
  constexpr std::size_t most_reserved = 2;
  const std::size_t used = other.used_pages();
  std::vector<Page> own;
  own.reserve(most_reserved);
  for (Page& page : pages_) {
    const bool is_kept =
        std::ranges::any_of(other.data_, [&](const float* data) { return data == page.data(); });
    if (own.size() < most_reserved && !is_kept && !page.is_shared()) own.push_back(std::move(page));
  }
  pages_.reserve(used + own.size());
  data_.reserve(used + own.size());
  pages_.assign(other.pages_.begin(), other.pages_.begin() + static_cast<std::ptrdiff_t>(used));
  for (Page& page : own) pages_.push_back(std::move(page));
  data_.clear();
  for (const Page& page : pages_) data_.push_back(page.data());
  rows_ = other.rows_;
}

Result<void> CachePages::reserve(Index more) {
  if (floats_per_token_ == 0) return {};
  constexpr Index most_bytes = Index{1} << 40;  // more than any machine has
  const auto fail = [&] {
    return Error{ErrorCode::no_memory,
                 fmt::format("[state] cache: expected memory for {} tokens of {} bytes, found none",
                             static_cast<std::uint64_t>(rows_) + static_cast<std::uint64_t>(more),
                             floats_per_token_ * Index{sizeof(float)})};
  };
  if (more < 0 || more > most_bytes / floats_per_token_ / Index{sizeof(float)} - rows_) {
    return fail();
  }
  const std::size_t first = static_cast<std::size_t>(rows_ / cache_page_tokens);
  const std::size_t needed =
      static_cast<std::size_t>((rows_ + more + cache_page_tokens - 1) / cache_page_tokens);
  const auto is_ready = [&](std::size_t i) { return i < pages_.size() && !pages_[i].is_shared(); };
  std::size_t next = first;
  while (next < needed && is_ready(next)) ++next;
  if (next == needed) return {};

  const auto make_room = [&]() -> bool {
    // Everything that can fail comes first.
    std::vector<Page> made;
    made.reserve(needed - next);
    for (std::size_t i = next; i < needed; ++i) {
      made.push_back(is_ready(i) ? Page() : Page::make(page_bytes()));
      if (!is_ready(i) && !made.back()) return false;
    }
    pages_.reserve(needed);
    data_.reserve(needed);
    for (std::size_t i = next; i < needed; ++i) {
      Page& page = made[i - next];
      if (!page) continue;
      if (i < used_pages()) std::memcpy(page.data(), pages_[i].data(), page_bytes());
      if (i == pages_.size()) {
        pages_.emplace_back();
        data_.push_back(nullptr);
      }
      pages_[i] = std::move(page);
      data_[i] = pages_[i].data();
    }
    return true;
  };
#if KRAIT_HAS_EXCEPTIONS
  try {
    if (!make_room()) return fail();
  } catch (const std::exception&) {  // no memory, or more pages than a list can have
    return fail();
  }
#else
  if (!make_room()) return fail();
#endif
  return {};
}

}  // namespace v0_1
}  // namespace krait
