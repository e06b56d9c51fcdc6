#include "core/bad_argument.hpp"

#include <string>
#include <utility>

namespace krait {
inline namespace v0_1 {

Error bad_argument(std::string_view area, std::string_view what, std::string_view expected,
                   std::string_view found) {
  std::string message;
  message.append("[").append(area).append("] ").append(what);
  message.append(": expected ").append(expected).append(", found ").append(found);
  return {ErrorCode::bad_argument, std::move(message)};
}

}  // namespace v0_1
}  // namespace krait
