#include "io/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace krait {
inline namespace v0_1 {
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

}  // namespace v0_1
}  // namespace krait
