#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "io/svg.hpp"
#include "tools/laser/cutter.hpp"

namespace krait {
inline namespace v0_1 {

Result<std::string> draw_spectrum(const CheckpointPlan& plan, Executor& executor,
                                  Progress progress) {
  KRAIT_ASSIGN_OR_RETURN(laser::Cutter cutter, laser::Cutter::create(plan));
  const std::vector<LaserMatrix>& matrices = cutter.matrices();
  constexpr double width = 220.0;
  constexpr double height = 150.0;
  constexpr double margin = 30.0;
  constexpr int columns = 3;
  std::map<std::string, int> panels;
  Svg svg;
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
    svg.line(points, blue_to_red(2.0 * depth - 1.0));
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
