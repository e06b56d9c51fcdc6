#pragma once

/// \file
/// ChatTemplate: conversations as the text that a model was trained on.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// What a template wrote.
struct RenderedText {
  std::string text = {};
  /// The parts that came from the variables, such as what a user said, ascending and apart: for
  /// `EncodeOptions::literal`, so that nobody writes control tokens but the template.
  std::vector<ByteRange> literal = {};
};

namespace jinja {
class ParsedTemplate;
}  // namespace jinja

/// A template in Jinja's language, as checkpoints have it for their conversations. Renders what
/// transformers renders; docs/chat.md has the parts of the language that there are. Immutable; may
/// be used from several threads.
///
///     KRAIT_ASSIGN_OR_RETURN(const ChatTemplate turns, ChatTemplate::parse(jinja));
///     KRAIT_ASSIGN_OR_RETURN(const RenderedText prompt, turns.render(variables));
///     KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
///                            tokenizer.encode(prompt.text, {.literal = prompt.literal}));
class KRAIT_API ChatTemplate {
 public:
  /// `name` is for messages. Errors: bad_format (no template), unsupported (a construct, filter or
  /// test that is not known, by name and line; nesting beyond 100 levels).
  static Result<ChatTemplate> parse(std::string_view jinja,
                                    std::string_view name = "chat template");

  /// Renders with the members of an object as variables: "messages", "add_generation_prompt", …
  /// Those of `marks`, such as "bos_token", count as the template's own text; so does the role of a
  /// message, if it is a plain word. Errors: bad_format (values that the template cannot do this
  /// with, by line), bad_argument (the template refuses the messages), unsupported (parts of the
  /// language that are not there; more than 10 million steps, 256 MiB of values and text, or 600
  /// levels of nesting).
  Result<RenderedText> render(const Metadata& variables, const Metadata& marks = {}) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::ParsedTemplate> parsed) noexcept
      : parsed_(std::move(parsed)) {}

  std::shared_ptr<const jinja::ParsedTemplate> parsed_;
};

}  // namespace v0_1
}  // namespace krait
