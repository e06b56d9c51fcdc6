// Noise inside the model in place of sampling at its end (DRµGS): always the most probable token,
// and yet several texts, each of which is the same whenever it is asked for.

#include <cstdio>
#include <memory>
#include <string>

#include "krait/krait.hpp"

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool threads;
  krait::Session session(lm.model, threads);

  // What the recurrence gives is turned by up to 0.8 radians, most in the middle layers; the state
  // stays as it would be without.
  const krait::DrugPlan plan{.doses = krait::parse_doses("A:theta=0.8,shape=peak(0.5,0.5)").value(),
                             .state = krait::DrugState::clean,
                             .seed = 42};
  auto made = krait::Drugs::make(plan, lm.model);
  if (!made) {  // a site that the model has not, a group that does not divide a vector
    std::fprintf(stderr, "%s\n", made.error().message.c_str());
    return 1;
  }
  const auto drugs = std::make_shared<const krait::Drugs>(*std::move(made));

  const krait::Sequence start(lm.model, lm.tokenizer->encode("The captain looked at the ").value());
  const auto text = [&](std::shared_ptr<const krait::Drugs> noise, std::uint32_t sequence) {
    krait::Sequence fork = start;
    krait::GenerationOptions options{.max_tokens = 60,
                                     .sampler = {.greedy = true, .sequence = sequence}};
    options.drugs = std::move(noise);
    return krait::generate(session, *lm.tokenizer, fork, options).value().text;
  };
  std::printf("sober: %s\n", text(nullptr, 0).c_str());
  for (std::uint32_t k = 0; k < 3; ++k) std::printf("%u: %s\n", k, text(drugs, k).c_str());
  const bool is_same = text(drugs, 1) == text(drugs, 1);
  std::printf("asked again: %s\n", is_same ? "the same" : "different");
  return is_same ? 0 : 1;
}
