// JSON that a schema describes, whatever the model would rather write: the grammar decides which
// tokens may come next, the model chooses among them, and what can only go on in one way is written
// without asking it.

#include <cstdio>

#include "krait/krait.hpp"

namespace {

constexpr const char* schema = R"({
  "type": "object",
  "properties": {
    "name": {"type": "string", "pattern": "^[A-Z][a-z]{2,9} [A-Z][a-z]{2,9}$"},
    "rank": {"enum": ["captain", "mate", "cook"]},
    "born": {"type": "string", "format": "date"},
    "ships": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3}
  },
  "required": ["name", "rank", "born", "ships"]
})";

}  // namespace

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool threads;
  krait::Session session(lm.model, threads);

  const krait::Grammar grammar = krait::Grammar::from_json_schema(schema).value();
  const krait::Vocabulary vocabulary(lm.tokenizer, lm.stop_tokens);
  const auto constraint = grammar.constrain(vocabulary).value();

  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    krait::Sequence text(lm.model, lm.encode_prompt("The sailor's papers said: ").value());
    const krait::GenerationOptions options{
        .max_tokens = 300, .sampler = {.temperature = 0.9, .seed = seed}, .constraint = constraint};
    const auto result = krait::generate(session, *lm.tokenizer, text, options).value();
    std::printf("%s\n%lld of %zu tokens were forced; finished by: %s\n", result.text.c_str(),
                static_cast<long long>(result.forced), result.tokens.size(),
                std::string(krait::to_string(result.reason)).c_str());
  }
}
