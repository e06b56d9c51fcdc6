// The state of a sequence is a value: one prompt, consumed once, continued in several ways; saved
// to a file and taken up again with the same result.

#include <cstdio>
#include <filesystem>

#include "krait/krait.hpp"

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  krait::ThreadPool threads;
  krait::Session session(lm.model, threads);

  krait::Sequence start(lm.model, lm.tokenizer->encode("The captain looked at the ").value());
  krait::prefill(session, start).value();  // all but the last token, which each fork consumes
  std::printf("state: %zu bytes, position %lld\n", start.state.bytes(),
              static_cast<long long>(start.state.position()));

  for (std::uint32_t k = 0; k < 3; ++k) {
    krait::Sequence fork = start;  // a deep copy
    auto result = krait::generate(
        session, *lm.tokenizer, fork,
        {.max_tokens = 40, .sampler = {.temperature = 0.8, .seed = 3, .sequence = k}});
    std::printf("%u: %s\n", k, result.value().text.c_str());
  }

  const auto path = std::filesystem::temp_directory_path() / "krait-state-fork.safetensors";
  krait::save_state(start, path.string()).value();
  const krait::Sequence again = krait::load_state(lm.model, path.string()).value();
  std::filesystem::remove(path);
  std::printf("saved and loaded: %s\n", again.state == start.state ? "the same bits" : "different");
  return again.state == start.state ? 0 : 1;
}
