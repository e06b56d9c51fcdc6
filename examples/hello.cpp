// The shortest program: load a model, continue a text.
//
//   hello [MODEL]        MODEL: a checkpoint, or the name of a bundled model
//
// prints sixty characters after "It was a dark and stormy night", the same ones on every machine.

#include <cstdio>

#include "krait/krait.hpp"

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool threads;
  krait::Session session(lm.model, threads);
  krait::Sequence text(lm.model, lm.tokenizer->encode("It was a dark and stormy night").value());
  auto result = krait::generate(session, *lm.tokenizer, text,
                                {.max_tokens = 60, .sampler = {.temperature = 0.7, .seed = 1}});
  std::printf("%s\n", result.value().text.c_str());
}
