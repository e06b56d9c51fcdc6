#include "constraint_flags.hpp"

#include <utility>

namespace krait::cli {
namespace {

// A schema is an object, true or false; everything else is the name of a file.
bool is_schema(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && (text[first] == '{' || text == "true" || text == "false");
}

// With the option and the file that it came from.
Result<std::optional<Grammar>> named(Result<Grammar> grammar, const std::string& source) {
  if (grammar) return std::optional<Grammar>(*std::move(grammar));
  Error error = std::move(grammar).error();
  error.message += " (" + source + ")";
  return printable(std::move(error));
}

}  // namespace

void ConstraintFlags::add(Command& command) {
  command.text("--json-schema", schema,
               "Write JSON of this schema: a file, or the schema itself, which begins with '{'");
  command.file("--grammar", grammar, "Write a text of the grammar in this file (GBNF)");
  command.text("--regex", regex, "Write a text that this regular expression matches as a whole");
}

Result<std::optional<Grammar>> ConstraintFlags::compile() const {
  if (!grammar.empty() && schema) {
    throw WrongUsage("--grammar", "no --json-schema beside it", in_quotes(*schema));
  }
  if (regex && schema)
    throw WrongUsage("--regex", "no --json-schema beside it", in_quotes(*schema));
  if (regex && !grammar.empty()) {
    throw WrongUsage("--regex", "no --grammar beside it", in_quotes(grammar));
  }
  if (regex) return named(Grammar::from_regex(*regex), "--regex");
  if (!grammar.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const std::string text,
                           read_text({.argument = {}, .file = grammar}, "grammar"));
    return named(Grammar::from_gbnf(text), "--grammar " + grammar);
  }
  if (!schema) return std::optional<Grammar>();
  if (is_schema(*schema)) return named(Grammar::from_json_schema(*schema), "--json-schema");
  if (schema->empty()) throw WrongUsage("--json-schema", "a file or a schema", "an empty name");
  KRAIT_ASSIGN_OR_RETURN(const std::string text,
                         read_text({.argument = {}, .file = *schema}, "json-schema"));
  return named(Grammar::from_json_schema(text), "--json-schema " + *schema);
}

Result<std::shared_ptr<const Constraint>> constrain(const std::optional<Grammar>& grammar,
                                                    const LanguageModel& model,
                                                    const std::vector<Token>& stop_tokens) {
  if (!grammar) return std::shared_ptr<const Constraint>();
  return grammar->constrain(Vocabulary(model.tokenizer, stop_tokens));
}

}  // namespace krait::cli
