#include "krait/decoding/stop.hpp"

#include <algorithm>
#include <utility>

namespace krait::inline v0_1 {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string_view StopMatcher::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
  if (end != std::string::npos) {
    stopped_ = true;
  } else {
    // Hold back the longest end of the text that begins a stop string.
    end = held_.size();
    for (const std::string& stop : stops_) {
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > 0; --n) {
        if (std::string_view(held_).substr(held_.size() - n) ==
            std::string_view(stop).substr(0, n)) {
          end = std::min(end, held_.size() - n);
          break;
        }
      }
    }
  }
  ready_.assign(held_, 0, end);
  held_.erase(0, end);
  return ready_;
}

std::string_view StopMatcher::finish() {
  ready_.clear();
  if (!stopped_) std::swap(ready_, held_);
  return ready_;
}

}  // namespace krait::inline v0_1
