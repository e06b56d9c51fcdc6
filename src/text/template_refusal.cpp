#include "krait/text/chat_template.hpp"

// Rendering templates needs exceptions inside; a library without them (KRAIT_NO_EXCEPTIONS) leaves
// the renderer out.
#ifndef __cpp_exceptions

namespace krait {
inline namespace v0_1 {
namespace {

Error refusal() {
  return {ErrorCode::unsupported,
          "[template] chat template: expected a library with exceptions, found one without"};
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view, std::string_view) { return refusal(); }

Result<RenderedText> ChatTemplate::render(const Metadata&, const Metadata&) const {
  return refusal();
}

}  // namespace v0_1
}  // namespace krait

#endif
