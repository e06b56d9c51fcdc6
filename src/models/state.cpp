#include "krait/models/state.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

void State::touch() noexcept {
  static std::atomic<std::uint64_t> last{0};
  version_ = last.fetch_add(1, std::memory_order_relaxed) + 1;
}

void State::copy_from(const State& other) {
  check_contract(block_.size() == other.block_.size(),
                 "[state] copy_from: expected a state of the same model");
  cache_.copy_from(other.cache_);  // the only part that can fail
  save_from(other);
}

void State::save_from(const State& other) noexcept {
  layout_ = other.layout_;
  position_ = other.position_;
  version_ = other.version_;
  if (block_.size() > 0) std::memcpy(block_.data(), other.block_.data(), block_.bytes());
}

void State::restore_from(const State& other) noexcept {
  save_from(other);
  cache_.set_rows(other.position_);
}

void State::reset() noexcept {
  position_ = 0;
  version_ = 0;
  cache_.set_rows(0);
  std::fill(block_.span().begin(), block_.span().end(), 0.0F);
}

std::span<const float> State::tensor(std::string_view path) const noexcept {
  if (layout_ == nullptr) return {};
  for (const StateTensor& tensor : layout_->tensors) {
    if (tensor.path == path) {
      return block_.span().subspan(static_cast<std::size_t>(tensor.slot.offset),
                                   static_cast<std::size_t>(tensor.slot.size));
    }
  }
  return {};
}

std::span<float> State::tensor(std::string_view path) noexcept {
  touch();
  const auto found = std::as_const(*this).tensor(path);
  return {const_cast<float*>(found.data()), found.size()};
}

TensorView State::cache_row(std::string_view path, Index token) const noexcept {
  if (layout_ == nullptr || token < 0 || token >= cache_.rows()) return {};
  for (const CacheTensor& tensor : layout_->cache) {
    if (tensor.path == path) return cache_.row(tensor.slot, token);
  }
  return {};
}

namespace {

bool same_rows(const State& a, const State& b) noexcept {
  if (a.layout() == nullptr || a.layout()->cache.empty()) return true;
  if (a.cache().rows() != b.cache().rows()) return false;
  for (const CacheTensor& tensor : a.layout()->cache) {
    for (Index token = 0; token < a.cache().rows(); ++token) {
      const TensorView x = a.cache().row(tensor.slot, token);
      const TensorView y = b.cache().row(tensor.slot, token);
      const auto bytes = static_cast<std::size_t>(x.bytes());
      if (x.data != y.data && std::memcmp(x.data, y.data, bytes) != 0) return false;
    }
  }
  return true;
}

}  // namespace

bool operator==(const State& a, const State& b) noexcept {
  const bool same_model =
      a.layout_ == b.layout_ || (a.layout_ != nullptr && b.layout_ != nullptr &&
                                 a.layout_->fingerprint == b.layout_->fingerprint);
  return same_model && a.position_ == b.position_ && a.block_.size() == b.block_.size() &&
         (a.block_.size() == 0 ||
          std::memcmp(a.block_.data(), b.block_.data(), a.block_.bytes()) == 0) &&
         same_rows(a, b);
}

}  // namespace v0_1
}  // namespace krait
