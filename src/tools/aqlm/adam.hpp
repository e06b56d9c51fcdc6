#pragma once

#include <span>
#include <string>
#include <vector>

#include "krait/io/safetensors.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// What a step needs beside the gradient: its length, relative to the numbers' sizes, and the
/// powers of β that correct the moments for their zeros at the start.
struct AdamStep {
  double rate = 0.0;
  double unseen1 = 1.0;
  double unseen2 = 1.0;
};

/// The root mean square of each `group` of numbers in a row.
std::vector<float> root_mean_squares(std::span<const float> values, std::size_t group);

/// Numbers that Adam moves (Kingma and Ba 2014, arXiv:1412.6980).
class Adam {
 public:
  static constexpr double beta1 = 0.9;
  static constexpr double beta2 = 0.99;

  Adam() = default;
  /// Steps are relative to `sizes`, each of as many numbers in a row.
  Adam(std::vector<float> values, std::vector<float> sizes);
  /// To the root mean square of each `group` in a row, since numbers near 0 move as far as others.
  Adam(std::vector<float> values, std::size_t group);

  const std::vector<float>& values() const noexcept { return values_; }
  /// Puts others in their place, as many.
  void set(std::span<const float> values);

  /// One step down the gradient [values()]. Numbers whose gradient was 0 throughout stay.
  void move(std::span<const float> gradient, const AdamStep& step);

  void append_to(std::vector<NamedTensor>& tensors, const std::string& name) const;
  /// Goes on from what `append_to` wrote; whether it was there, in these sizes.
  bool restore(const WeightStore& store, const std::string& name);

 private:
  std::vector<float> values_;
  std::vector<float> first_;  // moments of the gradient
  std::vector<float> second_;
  std::vector<float> sizes_;
  std::size_t group_ = 1;
};

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
