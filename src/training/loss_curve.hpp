#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// The losses of a run, to be drawn over its steps. Steps are added in ascending order.
class LossCurve {
 public:
  void add(Index step, double loss, std::optional<double> held_out);
  // Takes a line of the log; one that is damaged is left out.
  void add(std::string_view line);
  // A drawing whose lines have at most some hundred points: means over neighbouring steps.
  std::string svg() const;

 private:
  struct Point {
    Index step;
    double loss;
  };
  std::vector<Point> train_;
  std::vector<Point> held_out_;
};

}  // namespace training
}  // namespace v0_1
}  // namespace krait
