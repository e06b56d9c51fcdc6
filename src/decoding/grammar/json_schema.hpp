#pragma once

/// \file
/// JSON schemas as grammars.

#include <string_view>

#include "decoding/grammar/expr.hpp"
#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// Rules, of which rule 0 is what texts are of, and pairs of alternatives of `oneOf` whose rules
/// must have no text in common: rule `both` must be empty.
struct SchemaRules {
  struct Apart {
    std::uint32_t both;
    std::string where;
  };
  Rules rules;
  std::vector<Apart> apart;
};

/// The texts that a schema (draft 2020-12) validates. Errors: bad_format, unsupported (keywords, by
/// name and place), bad_argument (values that a keyword cannot have).
Result<SchemaRules> parse_json_schema(const Metadata& schema);

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
