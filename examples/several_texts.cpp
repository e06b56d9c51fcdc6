// Three texts at once: each step reads the weights once for all of them. A generation says what to
// run and takes the logits; who runs it, and together with what, is up to you. Here `advance_all`
// does, which mixes prompts that are being read and texts that grow. A sampler step of our own
// keeps the letter 'e' out of the second one.

#include <algorithm>
#include <cstdio>

#include "krait/krait.hpp"

namespace {

class Without final : public krait::SamplerStep {
 public:
  explicit Without(krait::Token token) : token_(token) {}
  std::unique_ptr<krait::SamplerStep> clone() const override {
    return std::make_unique<Without>(*this);
  }
  std::string_view name() const noexcept override { return "without"; }
  void apply(krait::Candidates& candidates, const krait::SamplerContext&) noexcept override {
    candidates.keep_if([&](const krait::Candidate& c) { return c.token != token_; });
  }

 private:
  krait::Token token_;
};

}  // namespace

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool threads;
  krait::Session session(lm.model, threads, {.max_batch = 3});

  std::vector<krait::Generation> texts;
  for (const char* prompt : {"The captain looked ", "The ship was ", "In the morning "}) {
    krait::GenerationOptions options{.max_tokens = 60, .sampler = {.temperature = 0.7, .seed = 5}};
    if (texts.size() == 1) options.sampler.steps = {std::make_shared<Without>('e')};
    krait::Sequence sequence(lm.model, lm.tokenizer->encode(prompt).value());
    texts.push_back(
        krait::Generation::make(lm.model, *lm.tokenizer, std::move(sequence), options).value());
  }
  std::vector<krait::Generation*> running;
  for (krait::Generation& text : texts) running.push_back(&text);
  while (!std::ranges::all_of(texts, &krait::Generation::is_finished)) {
    krait::advance_all(session, running).value();
  }
  for (krait::Generation& text : texts) {
    text.finish();
    std::printf("%s\n--\n", lm.tokenizer->decode(text.sequence().tokens).c_str());
  }
}
