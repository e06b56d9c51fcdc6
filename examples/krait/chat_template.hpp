#pragma once

/// \file
/// What a checkpoint says about the form of its conversations.

#include <optional>
#include <string>
#include <string_view>

#include "krait/krait.hpp"

namespace krait::cli {

/// The chat template of a checkpoint as it stands there: chat_template.jinja, or `chat_template` of
/// tokenizer_config.json, which is a text or a list with one named "default". Nothing, if there is
/// none. A template that cannot be had (no such name, no JSON) is one that is not known: "".
std::optional<std::string> find_template(const LanguageModel& model);

/// A conversation whose turns are all written alike, such as one in ChatML:
/// "<|im_start|>role\ntext<|im_end|>\n".
struct TurnTemplate {
  std::string opening;  ///< in front of the first turn, if that is the user's
  std::string before_user;
  std::string before_reply;
  std::string after_text;  ///< at the end of every turn; not empty
};

/// Whether a Jinja template writes such turns, and how. What it writes decides, not what it
/// mentions: the template is taken apart and has to match, piece by piece, as transformers would
/// render it (trim_blocks, lstrip_blocks). Templates that do more, such as those that treat roles
/// differently or know tools, are not known.
std::optional<TurnTemplate> read_turns(std::string_view jinja, const std::string& bos,
                                       const std::string& eos);

/// The text of a token that tokenizer_config.json names ("bos_token"); empty if there is none.
std::string named_token(const LanguageModel& model, const std::string& name);

}  // namespace krait::cli
