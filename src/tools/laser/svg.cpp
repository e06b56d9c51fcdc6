#include "tools/laser/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tools/checkpoint_copy.hpp"
#include "tools/laser/cutter.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {
namespace {

// Names in checkpoints may be anything.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20) result += c;
    }
  }
  return result;
}

}  // namespace

void Svg::rectangle(double x, double y, double width, double height, std::string_view fill,
                    std::string_view title) {
  body_ +=
      fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\">",
                  x, y, width, height, fill);
  if (!title.empty()) body_ += fmt::format("<title>{}</title>", escaped(title));
  body_ += "</rect>\n";
}

void Svg::text(double x, double y, std::string_view words, std::string_view anchor) {
  body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y,
                       anchor, escaped(words));
}

void Svg::line(std::string_view points, std::string_view stroke) {
  body_ += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\"/>\n", points, stroke);
}

std::string Svg::file(double width, double height) const {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
      "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" font-size=\"11\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{2}</svg>\n",
      width, height, body_);
}

std::string blue_to_red(double value) {
  const double v = std::isfinite(value) ? std::clamp(value, -1.0, 1.0) : 1.0;
  const auto mix = [&](double from, double to) {
    return static_cast<int>(std::lround(from + (to - from) * std::abs(v)));
  };
  return v < 0.0 ? fmt::format("#{:02x}{:02x}{:02x}", mix(255, 33), mix(255, 102), mix(255, 172))
                 : fmt::format("#{:02x}{:02x}{:02x}", mix(255, 178), mix(255, 24), mix(255, 43));
}

}  // namespace laser

Result<std::string> draw_spectrum(const CheckpointPlan& plan, Executor& executor,
                                  Progress progress) {
  KRAIT_RETURN_IF_ERROR(
      check_floats(plan.plan, plan.checkpoint.weights, plan.checkpoint.path, "laser"));
  laser::Cutter cutter(plan);
  const std::vector<LaserMatrix>& matrices = cutter.matrices();
  constexpr double width = 220.0;
  constexpr double height = 150.0;
  constexpr double margin = 30.0;
  constexpr int columns = 3;
  std::map<std::string, int> panels;
  laser::Svg svg;
  const Index layers = std::ssize(plan.config.spec.layers);
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const LaserMatrix& matrix = matrices[i];
    // Experts share a panel.
    const std::string kind = matrix.name.substr(0, matrix.name.find('['));
    const auto [panel, is_new] = panels.try_emplace(kind, static_cast<int>(panels.size()));
    const double x = margin + panel->second % columns * (width + margin);
    const double y = margin + static_cast<double>(panel->second / columns) * (height + margin);
    if (is_new) {
      svg.rectangle(x, y, width, height, "#f4f4f4");
      svg.text(x, y - 4.0, fmt::format("{} [{},{}]", kind, matrix.rows, matrix.cols));
    }
    KRAIT_RETURN_IF_ERROR(cutter.decompose({i}, executor));
    const std::vector<float>& s = cutter.values(i).s;
    const auto most = static_cast<double>(std::max(s.front(), 1e-30F));
    const std::size_t step = std::max<std::size_t>(1, s.size() / 100);
    std::string points;
    for (std::size_t k = 0; k < s.size(); k += step) {
      points += fmt::format("{:.1f},{:.1f} ",
                            x + width * static_cast<double>(k) / static_cast<double>(s.size()),
                            y + height * (1.0 - static_cast<double>(s[k]) / most));
    }
    const double depth =
        layers < 2 ? 0.0 : static_cast<double>(matrix.layer) / static_cast<double>(layers - 1);
    svg.line(points, laser::blue_to_red(2.0 * depth - 1.0));
    cutter.forget();
    if (progress && progress(static_cast<Index>(i) + 1, std::ssize(matrices)) == Flow::stop) {
      return Error{ErrorCode::cancelled, "[laser] stopped"};
    }
  }
  const double rows = std::ceil(static_cast<double>(panels.size()) / columns);
  svg.text(margin, margin + rows * (height + margin),
           "singular values over their index, each over the largest; first layer blue, last red");
  return svg.file(margin + columns * (width + margin), 2 * margin + rows * (height + margin));
}

}  // namespace v0_1
}  // namespace krait
