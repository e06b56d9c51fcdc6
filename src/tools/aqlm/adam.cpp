#include "tools/aqlm/adam.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

template <class Values, class First, class Second>
auto parts(Values& values, First& first, Second& second) {
  return std::array{std::pair(".values", &values), std::pair(".first", &first),
                    std::pair(".second", &second)};
}

}  // namespace

std::vector<float> root_mean_squares(std::span<const float> values, std::size_t group) {
  std::vector<float> roots;
  for (std::size_t begin = 0; begin < values.size(); begin += group) {
    double sum = 0.0;
    for (const float value : values.subspan(begin, group)) {
      sum += static_cast<double>(value) * static_cast<double>(value);
    }
    roots.push_back(static_cast<float>(std::sqrt(sum / static_cast<double>(group))));
  }
  return roots;
}

Adam::Adam(std::vector<float> values, std::vector<float> sizes)
    : values_(std::move(values)),
      first_(values_.size()),
      second_(values_.size()),
      sizes_(std::move(sizes)),
      group_(values_.size() / sizes_.size()) {}

Adam::Adam(std::vector<float> values, std::size_t group)
    : Adam(values, root_mean_squares(values, group)) {}

void Adam::set(std::span<const float> values) { std::ranges::copy(values, values_.begin()); }

void Adam::move(std::span<const float> gradient, const AdamStep& step) {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const auto of_number = static_cast<double>(gradient[i]);
    const double first = beta1 * static_cast<double>(first_[i]) + (1.0 - beta1) * of_number;
    const double second =
        beta2 * static_cast<double>(second_[i]) + (1.0 - beta2) * of_number * of_number;
    first_[i] = static_cast<float>(first);
    second_[i] = static_cast<float>(second);
    // Where squares are too small for f32, moments are as good as none.
    constexpr double least = 1e-12;
    const double root = std::sqrt(second / (1.0 - step.unseen2)) + least;
    const auto size = static_cast<double>(sizes_[i / group_]);
    const double change = step.rate * size * first / (1.0 - step.unseen1) / root;
    values_[i] = static_cast<float>(static_cast<double>(values_[i]) - change);
  }
}

void Adam::append_to(std::vector<NamedTensor>& tensors, const std::string& name) const {
  for (const auto& [part, numbers] : parts(values_, first_, second_)) {
    tensors.push_back({name + part, {numbers->data(), DType::f32, {std::ssize(*numbers)}}});
  }
}

bool Adam::restore(const WeightStore& store, const std::string& name) {
  return std::ranges::all_of(parts(values_, first_, second_), [&](const auto& part) {
    return copy_tensor(store, name + part.first, DType::f32,
                       std::as_writable_bytes(std::span(*part.second)));
  });
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
