// krait inside another program: one prompt, read once, continued in two ways.
//
//   embed [MODEL]        MODEL: a checkpoint, or the name of a bundled model

#include <cstdio>

#include "krait/krait.hpp"

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool pool;
  krait::Session session(lm.model, pool);

  krait::Sequence start(lm.model, lm.tokenizer->encode("It was a dark and ").value());
  krait::prefill(session, start).value();
  for (std::uint32_t k : {0U, 1U}) {
    krait::Sequence fork = start;
    auto result = krait::generate(
        session, *lm.tokenizer, fork,
        {.max_tokens = 40, .sampler = {.temperature = 0.8, .seed = 7, .sequence = k}});
    std::printf("%s\n", result.value().text.c_str());
  }
}
