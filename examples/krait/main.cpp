// krait: runs state-space language models from the command line.

#include <cstdio>
#include <new>

#include "command.hpp"

namespace {

std::string model_places() {
  std::string text = "Bundled models are looked for in:\n";
  for (const std::string& place : krait::bundled_model_places()) text += "  " + place + "\n";
  return text +
         "No environment variable is read but KRAIT_ISA, which forces an instruction set:\n"
         "scalar, sse4, avx2, avx512, avx512_vnni, avx512_bf16 or neon.\n";
}

int run(int argc, char** argv) {
  using namespace krait::cli;
  CLI::App app("Runs state-space language models on the CPU.");
  app.name("krait");
  app.set_version_flag("--version", std::string("krait ") + krait::version());
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);
  app.footer(model_places() + "Example: krait generate \"It was a dark and stormy night\" -n 100");
  int result = ok;
  add_generate(app, result);
  add_chat(app, result);
  add_logits(app, result);
  add_tokenize(app, result);
  add_perplexity(app, result);
  add_inspect(app, result);
  add_evaluate(app, result);
  add_quantize(app, result);
  add_bench(app, result);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    if (app.get_subcommands().empty() && app.remaining_size() > 0) {
      std::fprintf(stderr, "Not a subcommand: %s\nRun with --help for more information.\n",
                   app.remaining().front().c_str());
      return wrong_usage;
    }
    app.exit(error);
    return wrong_usage;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ok : wrong_usage;
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  krait::cli::catch_signals();
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fputs("krait: [memory] expected more memory, found none\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "krait: %s\n", error.what());
  }
  return krait::cli::failed;
}
