// krait: runs state-space language models from the command line.

#include <new>

#include "command.hpp"

namespace {

std::string model_places() {
  std::string text = "Bundled models are looked for in:\n";
  for (const std::string& place : krait::bundled_model_places()) text += "  " + place + "\n";
  return text +
         "No environment variable is read but KRAIT_ISA, which forces an instruction set:\n"
         "scalar, neon, sse4, avx2, avx512, avx512_vnni, avx512_bf16 or avx512_amx.\n";
}

int run(int argc, char** argv) {
  using namespace krait::cli;
  CommandLine line(
      "Runs state-space language models on the CPU.",
      model_places() + "Example: krait generate \"It was a dark and stormy night\" -n 100");
  add_generate(line);
  add_chat(line);
  add_logits(line);
  add_tokenize(line);
  add_perplexity(line);
  add_inspect(line);
  add_evaluate(line);
  add_convert(line);
  add_quantize(line);
  add_aqlm(line);
  add_laser(line);
  add_drugs_report(line);
  add_train(line);
  add_sft(line);
  add_dpo(line);
  add_prompts(line);
  add_candidates(line);
  add_judge(line);
  add_pairs(line);
  add_self_reward(line);
  add_merge(line);
  add_bench(line);
  return line.run({argv + std::min(argc, 1), argv + argc});
}

}  // namespace

int main(int argc, char** argv) {
  krait::cli::catch_signals();
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    krait::cli::tell("krait: [memory] expected more memory, found none");
  } catch (const std::exception& error) {
    krait::cli::tell(std::string("krait: ") + error.what());
  }
  return krait::cli::failed;
}
