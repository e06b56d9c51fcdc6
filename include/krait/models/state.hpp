#pragma once

/// \file
/// State: everything a model remembers of a sequence, as a value.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/bookings.hpp"
#include "krait/core/cache_pages.hpp"

namespace krait {
inline namespace v0_1 {

/// Where in a state block each tensor lies, and which model the states belong to.
struct StateLayout {
  std::vector<StateTensor> tensors;
  Index floats = 0;                ///< length of the block
  std::vector<CacheTensor> cache;  ///< rows per token; empty where the state does not grow
  Index cache_floats = 0;          ///< per token
  std::string fingerprint;  ///< of the model: its spec and samples of its weights, in hexadecimal
};

/// The state of one sequence: a block of a few MiB, the same size for ever, and, in models with
/// attention, a cache of rows per token, whose pages copies share until one of them writes. A
/// regular type: copy to fork a sequence, compare bit by bit, save and load (state_io.hpp). Made by
/// `Model::initial_state`; advanced by a Session of the same model.
class KRAIT_API State {
 public:
  /// No text is longer; so positions can be added without overflow.
  static constexpr Index largest_position = Index{1} << 48;

  /// Of no model; only to be assigned to.
  State() = default;
  explicit State(std::shared_ptr<const StateLayout> layout)
      : block_(layout->floats), cache_(layout->cache_floats), layout_(std::move(layout)) {}

  /// Tokens consumed so far.
  Index position() const noexcept { return position_; }
  /// Size of the state, position and names aside; what copies share is counted in each.
  std::size_t bytes() const noexcept { return block_.bytes() + cache_.bytes(); }

  /// Takes over the value of another state of the same model without allocating (but for the list
  /// of a cache's pages).
  void copy_from(const State& other);

  /// Makes room for the cache rows of `more` tokens, so that runs of them allocate nothing. A run
  /// does it itself where it was not done. Errors: no_memory; the state is as it was.
  Result<void> reserve(Index more) { return cache_.reserve(more); }

  /// A token's row in the cache, by its path such as "layers.3.attention.kv"; empty if there is
  /// none.
  std::span<const float> cache_row(std::string_view path, Index token) const noexcept;

  /// Back to the beginning of a sequence.
  void reset() noexcept;

  /// A tensor by its path, such as "layers.3.mixer.ssm_state"; empty if there is none. Whoever asks
  /// for one to write to makes another value of the state.
  std::span<const float> tensor(std::string_view path) const noexcept;
  std::span<float> tensor(std::string_view path) noexcept;

  /// Tells values apart without looking at them: copies have the version of what they were copied
  /// from, and every change gives a version that no other state of this process has or had.
  std::uint64_t version() const noexcept { return version_; }

  const std::shared_ptr<const StateLayout>& layout() const noexcept { return layout_; }

  /// The cache. For readers and writers of states.
  CachePages& cache() noexcept {
    touch();
    return cache_;
  }
  const CachePages& cache() const noexcept { return cache_; }

  /// The whole block. For readers and writers of states.
  std::span<float> block() noexcept {
    touch();
    return block_.span();
  }
  std::span<const float> block() const noexcept { return block_.span(); }
  void set_position(Index position) noexcept {
    touch();
    position_ = position;
  }

  /// Same model, same position, same bits.
  friend KRAIT_API bool operator==(const State& a, const State& b) noexcept;

 private:
  friend class Session;

  void touch() noexcept;
  // Everything but the cache, which goes back to the rows that the other state had.
  void restore_from(const State& other) noexcept;
  void save_from(const State& other) noexcept;

  AlignedBuffer<float> block_;
  CachePages cache_;
  std::shared_ptr<const StateLayout> layout_;
  Index position_ = 0;
  std::uint64_t version_ = 0;  // 0: the beginning of a sequence
};

}  // namespace v0_1
}  // namespace krait
