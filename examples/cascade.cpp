// A cascade of drafters guesses, the model verifies several guesses in one pass over its weights,
// and the text is the one that it writes alone, token for token. At the bottom what stands in the
// text already is found again; a small model reviews that and adds guesses of its own; and how much
// is drafted, by whom, follows from what was accepted and how long it took.

#include <cstdio>
#include <utility>

#include "krait/krait.hpp"

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  auto small = krait::load_language_model(argc > 2 ? argv[2] : "krait-bytes-draft").value();
  krait::check_same_tokens(*small.tokenizer, *lm.tokenizer, "the drafter").value();

  krait::ThreadPool threads;
  krait::Session session(lm.model, threads, {.max_verify = 1 + krait::Speculation::most_chosen});
  auto drafter = krait::cascade_drafter({{small.model, "small model"}},
                                        krait::ngram_drafter().value(), threads)
                     .value();

  const auto prompt = lm.tokenizer->encode("He said that he ").value();
  krait::GenerationOptions options{.max_tokens = 200, .sampler = {.temperature = 0.5, .seed = 3}};
  krait::Sequence plain(lm.model, prompt);
  const auto alone = krait::generate(session, *lm.tokenizer, plain, options).value();

  options.speculation =
      std::make_shared<krait::Speculation>(krait::Speculation::make(std::move(drafter)).value());
  krait::Sequence drafted(lm.model, prompt);
  const auto together = krait::generate(session, *lm.tokenizer, drafted, options).value();

  std::printf("%s\n--\n", together.text.c_str());
  std::printf("%lld tokens in %lld passes\n", static_cast<long long>(together.tokens.size()),
              static_cast<long long>(together.target_passes));
  for (const auto& level : options.speculation->statistics().levels) {
    std::printf("%s: %lld of %lld guesses accepted\n", level.name.c_str(),
                static_cast<long long>(level.count.accepted),
                static_cast<long long>(level.count.drafted));
  }
  const bool is_same = together.tokens == alone.tokens && drafted.state == plain.state;
  std::printf("with drafts and without: %s\n", is_same ? "the same bits" : "different");
  return is_same ? 0 : 1;
}
