#include "krait/decoding/stop.hpp"

#include <algorithm>
#include <utility>

namespace krait {
inline namespace v0_1 {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::size_t StopMatcher::longest() const noexcept {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) longest = std::max(longest, stop.size());
  return longest;
}

std::size_t StopMatcher::undecided(std::string_view text) const noexcept {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, text.size()); n > longest; --n) {
      if (text.substr(text.size() - n) == std::string_view(stop).substr(0, n)) longest = n;
    }
  }
  return longest;
}

void StopMatcher::prime(std::string_view text) {
  held_ = text.substr(text.size() - undecided(text));
}

std::string_view StopMatcher::push(std::string_view piece) {
  if (stopped_) return {};
  const std::size_t known = held_.size();  // no stop string ends here
  held_ += piece;
  std::size_t begin = std::string::npos;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t found = held_.find(stop, known < stop.size() ? 0 : known - stop.size() + 1);
    if (found == std::string::npos) continue;
    const std::size_t found_end = found + stop.size();
    if (found_end < end || (found_end == end && found < begin)) {
      begin = found;
      end = found_end;
    }
  }
  stopped_ = end != std::string::npos;
  if (!stopped_) begin = held_.size() - undecided(held_);
  ready_.assign(held_, 0, begin);
  held_.erase(0, begin);
  return ready_;
}

bool StopMatcher::completes(std::string_view piece) const {
  StopMatcher next = *this;
  next.push(piece);
  return next.stopped_;
}

std::string_view StopMatcher::finish() {
  ready_.clear();
  if (!stopped_) std::swap(ready_, held_);
  return ready_;
}

}  // namespace v0_1
}  // namespace krait
