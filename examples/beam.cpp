// Beam search: the most probable continuations instead of a drawn one. A beam is a state and what
// goes with it; where two texts go on from one, its state is copied. What comes out is a sequence
// that can go on, here by drawing.

#include <cstdio>

#include "krait/krait.hpp"

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool threads;
  krait::Session session(lm.model, threads, {.max_batch = 6});  // all beams in one pass

  const krait::Sequence prompt(lm.model, lm.tokenizer->encode("The captain looked ").value());
  const krait::GenerationOptions options{.max_tokens = 40, .stop_tokens = {'.'}};
  auto beams =
      krait::beam_search(session, *lm.tokenizer, prompt, options,
                         {.num_beams = 6, .length_penalty = 1.0, .num_return_sequences = 3})
          .value();
  for (const krait::Beam& beam : beams) {
    std::printf("%7.3f %s\n", beam.score, beam.result.text.c_str());
  }

  krait::Sequence& best = beams.front().sequence;
  const auto more = krait::generate(session, *lm.tokenizer, best,
                                    {.max_tokens = 40, .sampler = {.temperature = 0.7, .seed = 2}});
  std::printf("and on: %s\n", more.value().text.c_str());
}
