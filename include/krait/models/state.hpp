#pragma once

/// \file
/// State: what a model remembers of a sequence, as a value.

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
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// Where each tensor lies in a state, and the model that the states belong to.
struct StateLayout {
  std::vector<StateTensor> tensors;
  Index floats = 0;                ///< length of the block
  std::vector<CacheTensor> cache;  ///< rows per token; empty where the state does not grow
  Index cache_floats = 0;          ///< per token, in units of 4 bytes
  DType kv_dtype = DType::f32;     ///< of attention's keys and values; f32 where there are none
  std::string fingerprint;  ///< of the model: spec, samples of weights, kv_dtype; in hexadecimal
};

/// The state of one sequence: a block of fixed size (a few MiB) with the recurrent states and, in
/// models with attention, a KV cache that grows by a row per token and whose pages copies share
/// until one of them writes. A regular type: copy it to fork a sequence, compare it bit by bit,
/// save and load it (state_io.hpp). Made by `Model::initial_state`, advanced by a Session of that
/// model.
class KRAIT_API State {
 public:
  /// Largest number of tokens of a text. Sums of positions do not overflow.
  static constexpr Index largest_position = Index{1} << 48;

  /// A state of no model, to be assigned to.
  State() = default;
  explicit State(std::shared_ptr<const StateLayout> layout)
      : block_(layout->floats), cache_(layout->cache_floats), layout_(std::move(layout)) {}

  /// Tokens consumed so far.
  Index position() const noexcept { return position_; }
  /// Bytes of block and cache. Pages that copies share count in each copy.
  std::size_t bytes() const noexcept { return block_.bytes() + cache_.bytes(); }

  /// Takes over the value of another state of the same model. Allocates nothing but, with a cache,
  /// the list of its pages. A state of another model is a contract breach.
  void copy_from(const State& other);

  /// Makes room for the cache rows of `more` tokens, so that running them does not allocate. A run
  /// that needs more reserves it. Errors: no_memory; the state is unchanged.
  Result<void> reserve(Index more) { return cache_.reserve(more); }

  /// A token's cache row by path ("layers.3.attention.keys"), of the type that the cache has;
  /// without data if there is none.
  TensorView cache_row(std::string_view path, Index token) const noexcept;

  /// Back to the state of an empty sequence.
  void reset() noexcept;

  /// A tensor by path ("layers.3.mixer.ssm_state"); empty if there is none. Asking for a mutable
  /// one gives the state a new version.
  std::span<const float> tensor(std::string_view path) const noexcept;
  std::span<float> tensor(std::string_view path) noexcept;

  /// Tells values apart without reading them: a copy has the version of its original, and every
  /// change gives a version that no other state of this process has or had.
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
  // Takes over everything but the cache, which is cut back to the other state's position.
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
