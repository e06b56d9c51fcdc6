#include "training/loss_curve.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/json.hpp"
#include "io/svg.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

void LossCurve::add(Index step, double loss, std::optional<double> held_out) {
  train_.push_back({step, loss});
  if (held_out) held_out_.push_back({step, *held_out});
}

void LossCurve::add(std::string_view line) {
  const Result<Metadata> json = parse_json(line, "log");
  if (!json) return;
  const auto step = (*json)["step"].whole();
  const std::optional<double> loss = (*json)["loss"].number();
  if (step && loss) add(static_cast<Index>(*step), *loss, (*json)["held_out_loss"].number());
}

std::string LossCurve::svg() const {
  constexpr double width = 720.0;
  constexpr double height = 360.0;
  constexpr double left = 60.0;
  constexpr double right = width - 20.0;
  constexpr double top = 30.0;
  constexpr double bottom = height - 40.0;
  constexpr std::size_t most_points = 400;
  constexpr int intervals = 5;
  // Means over as many neighbours as make few points.
  const auto thinned = [&](const std::vector<Point>& points) {
    const std::size_t size = (points.size() + most_points - 1) / most_points;
    std::vector<std::pair<double, double>> result;
    for (std::size_t first = 0; first < points.size(); first += size) {
      const std::size_t end = std::min(points.size(), first + size);
      double step = 0.0;
      double loss = 0.0;
      for (std::size_t i = first; i < end; ++i) {
        step += static_cast<double>(points[i].step);
        loss += points[i].loss;
      }
      const auto count = static_cast<double>(end - first);
      result.emplace_back(step / count, loss / count);
    }
    return result;
  };
  const auto train = thinned(train_);
  const auto held_out = thinned(held_out_);
  double least = train.empty() ? 0.0 : train.front().second;
  double most = least;
  for (const auto* line : {&train, &held_out}) {
    for (const auto& [step, loss] : *line) {
      least = std::min(least, loss);
      most = std::max(most, loss);
    }
  }
  if (most <= least) most = least + 1.0;
  const double last = train_.empty() ? 1.0 : std::max(1.0, double(train_.back().step));
  const auto x_of = [&](double step) { return left + (right - left) * step / last; };
  const auto y_of = [&](double loss) {
    return bottom - (bottom - top) * (loss - least) / (most - least);
  };
  Svg svg;
  for (int i = 0; i <= intervals; ++i) {
    const double part = double(i) / intervals;
    const double loss = least + (most - least) * part;
    const double step = std::floor(last * part);
    svg.line(fmt::format("{:.1f},{:.1f} {:.1f},{:.1f}", left, y_of(loss), right, y_of(loss)),
             "#dddddd");
    svg.text(left - 6.0, y_of(loss) + 4.0, fmt::format("{:.3f}", loss), "end");
    svg.text(x_of(step), bottom + 16.0, fmt::format("{:.0f}", step), "middle");
  }
  svg.text((left + right) / 2.0, bottom + 32.0, "step", "middle");
  const auto draw = [&](const auto& points, const char* name, const char* stroke, double at) {
    if (points.empty()) return;
    std::string line;
    for (const auto& [step, loss] : points) {
      line += fmt::format("{}{:.1f},{:.1f}", line.empty() ? "" : " ", x_of(step), y_of(loss));
    }
    svg.line(line, stroke);
    svg.rectangle(at, top - 20.0, 12.0, 4.0, stroke);
    svg.text(at + 18.0, top - 14.0, name);
  };
  draw(train, "training loss", "#1f77b4", left);
  draw(held_out, "held-out loss", "#d62728", left + 120.0);
  return svg.file(width, height);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
