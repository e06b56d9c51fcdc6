#pragma once

#include <string>
#include <string_view>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// A drawing that is put together of lines of SVG.
class KRAIT_API Svg {
 public:
  void rectangle(double x, double y, double width, double height, std::string_view fill,
                 std::string_view title = "");
  void text(double x, double y, std::string_view words, std::string_view anchor = "start");
  void line(std::string_view points, std::string_view stroke);
  /// The file, of that size.
  std::string file(double width, double height) const;

 private:
  std::string body_;
};

/// "#rrggbb" between blue (-1), white (0) and red (1).
KRAIT_API std::string blue_to_red(double value);

}  // namespace v0_1
}  // namespace krait
