#pragma once

/// \file
/// ChatTemplates: what a checkpoint says about the form of its conversations.

#include <optional>
#include <string>
#include <vector>

#include "krait/loading/checkpoint.hpp"
#include "krait/text/chat_template.hpp"

namespace krait {
inline namespace v0_1 {

/// The chat templates of a checkpoint, by name, and the tokens that they write.
struct ChatTemplates {
  std::vector<NamedText> sources = {};  ///< in Jinja's language; most have one named "default"
  /// "bos_token", "eos_token" and what else tokenizer_config.json (or special_tokens_map.json)
  /// names so, as texts.
  Metadata marks = {};
  std::optional<Error> problem = {};  ///< why there are none, where the file has something else

  bool is_empty() const noexcept { return sources.empty() && !problem; }

  /// The one for a conversation: "tool_use" where there are tools and such a template, else
  /// "default". Errors: not_found (no such template), bad_config (`problem`), and those of
  /// ChatTemplate::parse.
  KRAIT_API Result<ChatTemplate> choose(bool has_tools) const;
};

/// Those of chat_template.jinja, or else of `chat_template` in tokenizer_config.json (a text, or a
/// list of `name` and `template`), and of additional_chat_templates/NAME.jinja, which go before
/// them. (A GGUF file has one of these forms, too.)
KRAIT_API ChatTemplates read_chat_templates(const Checkpoint& checkpoint);

}  // namespace v0_1
}  // namespace krait
