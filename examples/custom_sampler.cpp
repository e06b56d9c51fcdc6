// A sampler step of your own among krait's: it sees the candidates that the steps before it left,
// changes their logits or takes them out, and has its place in the order like any other. This one
// makes every word begin with another letter than the word before.

#include <cctype>
#include <cstdio>

#include "krait/krait.hpp"

namespace {

class NoAlliteration final : public krait::SamplerStep {
 public:
  std::unique_ptr<krait::SamplerStep> clone() const override {
    return std::make_unique<NoAlliteration>(*this);
  }
  std::string_view name() const noexcept override { return "no_alliteration"; }

  // What a step remembers follows from the text, so that it can be rolled back with it.
  void observe(std::span<const krait::Token> tokens) noexcept override {
    for (const krait::Token token : tokens) {
      const bool is_letter = token < 128 && std::isalpha(token) != 0;
      if (is_letter && !is_in_word_) first_ = std::tolower(token);
      is_in_word_ = is_letter;
    }
  }

  void apply(krait::Candidates& candidates, const krait::SamplerContext&) noexcept override {
    if (is_in_word_) return;
    candidates.keep_if([&](const krait::Candidate& c) { return std::tolower(c.token) != first_; });
  }

 private:
  int first_ = 0;  // letter of the last word
  bool is_in_word_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool threads;
  krait::Session session(lm.model, threads);

  krait::SamplerOptions sampler{.temperature = 0.7, .top_k = 20, .seed = 3};
  sampler.steps = {std::make_shared<NoAlliteration>()};
  sampler.order = {"no_alliteration", "temperature", "top_k"};  // left out, it would come last
  krait::Sequence text(lm.model, lm.tokenizer->encode("The captain looked at the ").value());
  const auto result =
      krait::generate(session, *lm.tokenizer, text, {.max_tokens = 80, .sampler = sampler});
  std::printf("%s\n", result.value().text.c_str());
}
