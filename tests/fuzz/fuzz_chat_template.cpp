// A chat template from anywhere: it is refused, or it renders a conversation within its limits, and
// what it marks as somebody else's text lies within the text.
#include <string>
#include <string_view>

#include "krait/text/chat_template.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace {

using krait::Metadata;

Metadata message(const char* role, const char* content) {
  return Metadata::Object{{"role", std::string(role)}, {"content", std::string(content)}};
}

Metadata conversation() {
  Metadata tool_call = Metadata::Object{
      {"name", std::string("f")},
      {"arguments", Metadata::Object{{"x", 1}, {"y", Metadata::Array{1.5, true, {}}}}}};
  Metadata call = message("assistant", "");
  call.object()->push_back({"tool_calls", Metadata::Array{std::move(tool_call)}});
  return Metadata::Object{
      {"messages", Metadata::Array{message("system", "Be kind."), message("user", "Hi \xC3\xA9\n"),
                                   std::move(call), message("tool", "{}")}},
      {"tools", Metadata::Array{Metadata::Object{{"type", std::string("function")}}}},
      {"documents", {}},
      {"add_generation_prompt", true}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using krait::test::demand;
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = krait::ChatTemplate::parse(source);
  if (!parsed) {
    krait::test::check_error(parsed.error());
    return 0;
  }
  static const Metadata variables = conversation();
  static const Metadata marks = Metadata::Object{{"bos_token", std::string("<s>")}};
  const auto rendered = parsed->render(variables, marks);
  if (!rendered) {
    krait::test::check_error(rendered.error());
    return 0;
  }
  std::size_t end = 0;
  for (const krait::ByteRange& range : rendered->literal) {
    demand(range.begin >= end && range.begin < range.end);
    end = range.end;
  }
  demand(end <= rendered->text.size());
  return 0;
}
