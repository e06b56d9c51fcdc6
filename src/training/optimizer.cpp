// Learning rates, the norm of gradients, AdamW.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "krait/training/trainer.hpp"
#include "training/products.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error bad_option(std::string_view what, const std::string& expected, const std::string& found) {
  return {ErrorCode::bad_argument,
          fmt::format("[training] {}: expected {}, found {}", what, expected, found)};
}

// cos(π x) for x in [0, 1] by Taylor's series: the C library's differs between systems.
double cos_pi(double x) {
  const double a = (x - 0.5) * 3.14159265358979323846;  // cos(π x) = -sin(a)
  double term = a;
  double sum = a;
  for (int k = 1; k <= 12; ++k) {
    term *= -a * a / static_cast<double>(2 * k * (2 * k + 1));
    sum += term;
  }
  return -sum;
}

// base^n by squaring, for the same reason.
double power(double base, Index n) {
  double result = 1.0;
  for (; n > 0; n /= 2, base *= base) {
    if (n % 2 == 1) result *= base;
  }
  return result;
}

}  // namespace

std::string_view to_string(Schedule schedule) noexcept {
  constexpr std::array<std::string_view, 4> names = {"constant", "linear", "cosine", "wsd"};
  return names[static_cast<std::size_t>(schedule)];
}

std::string_view to_string(Optimizer optimizer) noexcept {
  return optimizer == Optimizer::adamw ? "adamw" : "muon";
}

std::string_view to_string(DataOrder order) noexcept {
  return order == DataOrder::shuffled ? "shuffled" : "sequential";
}

Result<void> validate(const TrainOptions& options) {
  constexpr Index most = Index{1} << 40;
  struct Whole {
    std::string_view name;
    Index value;
    Index least;
    Index largest;
  };
  for (const Whole& field :
       {Whole{"steps", options.steps, 1, most}, Whole{"batch", options.batch, 1, 1 << 20},
        Whole{"length", options.length, 1, 1 << 20},
        Whole{"accumulate", options.accumulate, 1, 1 << 20},
        Whole{"shards", options.shards, 0, std::min(options.rows(), Index{4096})},
        // A schedule has at least its end behind the warm-up.
        Whole{"warmup", options.warmup, 0,
              options.schedule == Schedule::constant ? options.steps
                                                     : std::max(Index{0}, options.steps - 1)}}) {
    if (field.value < field.least || field.value > field.largest) {
      return bad_option(field.name, fmt::format("{} to {}", field.least, field.largest),
                        fmt::to_string(field.value));
    }
  }
  struct Real {
    std::string_view name;
    double value;
    bool is_valid;
    std::string expected;
  };
  constexpr auto least_eps = static_cast<double>(std::numeric_limits<float>::min());
  const auto at_least_0 = [](double x) { return std::isfinite(x) && x >= 0.0; };
  const auto below_1 = [](double x) { return x >= 0.0 && x < 1.0; };
  for (const Real& field :
       {Real{"lr", options.learning_rate, at_least_0(options.learning_rate), "at least 0"},
        Real{"weight-decay", options.weight_decay, at_least_0(options.weight_decay), "at least 0"},
        Real{"beta1", options.beta1, below_1(options.beta1), "at least 0 and below 1"},
        Real{"beta2", options.beta2, below_1(options.beta2), "at least 0 and below 1"},
        // A parameter without a gradient is moved by 0 / eps.
        Real{"eps", options.eps, std::isfinite(options.eps) && options.eps >= least_eps,
             fmt::format("at least {}", least_eps)},
        Real{"clip", options.clip, at_least_0(options.clip), "at least 0"},
        Real{"momentum", options.momentum, below_1(options.momentum), "at least 0 and below 1"},
        Real{"balance-loss", options.balance, at_least_0(options.balance), "at least 0"},
        Real{"z-loss", options.z_loss, at_least_0(options.z_loss), "at least 0"},
        Real{"capacity", options.capacity, at_least_0(options.capacity), "at least 0"}}) {
    if (!field.is_valid) {
      return bad_option(field.name, field.expected, fmt::to_string(field.value));
    }
  }
  return {};
}

double learning_rate(const TrainOptions& options, Index step) {
  constexpr double end = 0.1;
  const double lr = options.learning_rate;
  if (step < options.warmup) {
    return lr * static_cast<double>(step + 1) / static_cast<double>(options.warmup);
  }
  const Index decay = options.schedule == Schedule::wsd
                          ? std::min(std::max(Index{1}, options.steps / 5),
                                     std::max(Index{1}, options.steps - options.warmup))
                          : options.steps - options.warmup;
  const Index done = step + 1 - (options.steps - decay);  // steps of the decay
  if (options.schedule == Schedule::constant || done <= 0) return lr;
  const double part = std::min(1.0, static_cast<double>(done) / static_cast<double>(decay));
  const double rest =
      options.schedule == Schedule::cosine ? 0.5 * (1.0 + cos_pi(part)) : 1.0 - part;
  return lr * (end + (1.0 - end) * rest);
}

double gradient_norm(std::span<const float> gradients) {
  constexpr std::size_t piece = 4096;
  std::vector<double> sums;
  for (std::size_t first = 0; first < gradients.size(); first += piece) {
    const std::size_t count = std::min(piece, gradients.size() - first);
    const float* from = gradients.data() + first;
    sums.push_back(static_cast<double>(training::dot(from, from, static_cast<Index>(count))));
  }
  while (sums.size() > 1) {  // the tree's levels; a missing child passes the other
    for (std::size_t i = 0; i < sums.size() / 2; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
    const bool is_odd = sums.size() % 2 == 1;
    if (is_odd) sums[sums.size() / 2] = sums.back();
    sums.resize(sums.size() / 2 + (is_odd ? 1 : 0));
  }
  return sums.empty() ? 0.0 : std::sqrt(sums.front());
}

void adamw(const AdamW& options, Index step, Index count, const float* gradient,
           float* first_moment, float* second_moment, float* value) {
  const auto keep = static_cast<float>(1.0 - options.learning_rate * options.weight_decay);
  const auto beta2 = static_cast<float>(options.beta2);
  const auto rest1 = static_cast<float>(1.0 - options.beta1);
  const auto rest2 = static_cast<float>(1.0 - options.beta2);
  const auto size = static_cast<float>(options.learning_rate / (1.0 - power(options.beta1, step)));
  const auto root = static_cast<float>(std::sqrt(1.0 - power(options.beta2, step)));
  const auto eps = static_cast<float>(options.eps);
  for (Index i = 0; i < count; ++i) {
    const float g = gradient[i];
    const float m = first_moment[i] + (g - first_moment[i]) * rest1;
    const float v = second_moment[i] * beta2 + (rest2 * g) * g;
    first_moment[i] = m;
    second_moment[i] = v;
    value[i] = value[i] * keep - size * (m / (std::sqrt(v) / root + eps));
  }
}

}  // namespace v0_1
}  // namespace krait
