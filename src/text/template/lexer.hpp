#pragma once

/// \file
/// Templates as tokens.

#include <string>
#include <string_view>
#include <vector>

#include "text/template/value.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

struct TemplateToken {
  enum class Kind {
    text,             ///< outside of all marks, white space control done
    begin_output,     ///< {{
    end_output,       ///< }}
    begin_statement,  ///< {%
    end_statement,    ///< %}
    name,
    string,  ///< without quotation marks and escapes
    number,
    sign,  ///< an operator or a bracket
    end,
  };
  Kind kind = Kind::end;
  std::string text = {};
  Value value = {};  ///< of a number
  std::size_t line = 1;

  bool is(Kind other, std::string_view content) const noexcept {
    return kind == other && text == content;
  }
  bool is_sign(std::string_view content) const noexcept { return is(Kind::sign, content); }
  bool is_name(std::string_view content) const noexcept { return is(Kind::name, content); }
};

/// Cuts well-formed text into tokens as Jinja does with trim_blocks and lstrip_blocks; the last is
/// `end`. Throws Failure.
std::vector<TemplateToken> cut_template(std::string_view source);

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
