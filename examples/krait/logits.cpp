#include <algorithm>
#include <cstdio>
#include <numeric>
#include <utility>

#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct LogitsFlags {
  CommonOptions common;
  DrugFlags drugs;
  std::optional<std::string> tokens;
  TextSource text;
  bool all = false;
  Index chunk = 256;
  Index top = 10;
  std::string out;
};

Result<std::vector<Token>> read_tokens(const LogitsFlags& options, const Runtime& runtime) {
  if (options.tokens) {
    return parse_tokens(*options.tokens, "--tokens", runtime.model().vocab_padded() - 1);
  }
  KRAIT_ASSIGN_OR_RETURN(const std::string text, read_text(options.text, "--text"));
  return runtime.language_model.encode_prompt(text);
}

// The most probable tokens of a row; padding is left out.
std::vector<Candidate> best(std::span<const float> row, const Model& model, Index count) {
  const auto known = row.first(static_cast<std::size_t>(model.vocab()));
  std::vector<Token> order(known.size());
  std::iota(order.begin(), order.end(), 0);
  count = std::min(count, model.vocab());
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](Token a, Token b) {
    const float x = known[static_cast<std::size_t>(a)];
    const float y = known[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  });
  const float sum = kernels::log_sum_exp(known);
  std::vector<Candidate> candidates;
  for (Index i = 0; i < count; ++i) {
    const Token token = order[static_cast<std::size_t>(i)];
    const float logit = known[static_cast<std::size_t>(token)];
    candidates.push_back({token, logit, logit - sum});
  }
  return candidates;
}

Result<void> show(const LogitsFlags& options, const Runtime& runtime, Index position,
                  std::span<const float> row, std::vector<LogitsRow>& rows) {
  auto candidates = best(row, runtime.model(), options.top);
  if (options.common.json) {
    rows.push_back({position, std::move(candidates)});
    return {};
  }
  std::string text = "after token " + std::to_string(position + 1) + ":\n";
  for (const Candidate& one : candidates) {
    char line[64];
    std::snprintf(line, sizeof line, "%8d %12.6f %10.6f  ", one.token,
                  static_cast<double>(one.logit), static_cast<double>(one.log_prob));
    text += line + to_json(std::string(runtime.tokenizer().bytes(one.token))) + "\n";
  }
  return print(text);
}

void check(const LogitsFlags& options) {
  options.drugs.check();
  const int given = (options.tokens ? 1 : 0) + (options.text.argument ? 1 : 0) +
                    (options.text.file.empty() ? 0 : 1);
  if (given > 1) throw WrongUsage("input", "one of --tokens, --text and --file", "several");
  if (options.tokens && parse_tokens(*options.tokens, "--tokens").empty()) {
    throw WrongUsage("--tokens", "at least one id", "none");
  }
}

Result<void> run(const LogitsFlags& options) {
  check(options);
  KRAIT_RETURN_IF_ERROR(
      check_destination("--out", options.out, {options.common.model, options.text.file}, true));
  const SessionOptions session{.chunk = options.chunk, .max_batch = 1};
  Result<Runtime> started = start(options.common, session);
  // Ids need no tokenizer, which checkpoints may lack.
  if (!started && options.tokens && started.error().code != ErrorCode::cancelled) {
    started = start_without_tokenizer(options.common, session);
  }
  if (!started) return started.error();
  Runtime& runtime = *started;
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, read_tokens(options, runtime));
  const Model& model = runtime.model();
  const Index vocab = model.vocab_padded();
  std::optional<NpyWriter> file;
  if (!options.out.empty()) {
    KRAIT_ASSIGN_OR_RETURN(file, NpyWriter::create(options.out, vocab));
  }
  KRAIT_ASSIGN_OR_RETURN(const auto drugs, options.drugs.resolve(model));
  std::optional<NoisedRun> noised;
  if (drugs) noised.emplace(*runtime.session, drugs);
  State state = model.initial_state();
  ProgressLine progress("logits", "tokens");
  std::vector<LogitsRow> rows;
  const auto total = static_cast<Index>(tokens.size());
  std::vector<float> block(
      static_cast<std::size_t>(options.all ? std::min(options.chunk, total) * vocab : 0));
  for (Index first = 0; first < total;) {
    Index count = std::min(options.chunk, total - first);
    const auto chunk =
        std::span(tokens).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    MatrixView<const float> logits;
    if (noised) {
      KRAIT_ASSIGN_OR_RETURN(logits, noised->run(chunk));
      count = logits.rows;
      if (!options.all) logits = logits.rows_from(count - 1, 1);
    } else if (options.all) {
      const MatrixView<float> out(block.data(), count, vocab);
      KRAIT_RETURN_IF_ERROR(runtime.session->prefill_all(chunk, state, out));
      logits = out;
    } else {
      KRAIT_ASSIGN_OR_RETURN(const auto last, runtime.session->prefill(chunk, state));
      logits = {last.data(), 1, vocab};
    }
    first += count;
    if (!options.all && first < total) continue;
    if (file) {
      for (Index i = 0; i < logits.rows; ++i) KRAIT_RETURN_IF_ERROR(file->write(logits.row(i)));
    }
    // A file has every row; without one, or with --json, the most probable tokens are shown.
    if (!file || options.common.json) {
      for (Index i = 0; i < logits.rows; ++i) {
        KRAIT_RETURN_IF_ERROR(show(options, runtime, first - logits.rows + i, logits.row(i), rows));
      }
    }
    if (progress(first, total) == Flow::stop) return interruption();
  }
  if (file) KRAIT_RETURN_IF_ERROR(file->commit());
  if (!options.common.json) return flush();
  return print_json(to_json(rows, options.all, total, model.vocab()));
}

void declare(Command& command, LogitsFlags& options) {
  command.text("--tokens", options.tokens, "Token ids such as 1,2,3 or \"1 2 3\"");
  command.text("--text", options.text.argument,
               "Text; '-', or no input given where text is piped in: standard input");
  command.file("--file", options.text.file, "Text from a file");
  command.flag("--all", options.all, "After every token, not only after the last");
  command.number("--chunk", options.chunk, 1, Index{1} << 20,
                 "Tokens that run at once; changes no bit");
  command.number("--top", options.top, 1, Index{1} << 20,
                 "How many of the most probable tokens to show");
  command.file("--out", options.out, "Write logits, as f32 [tokens, vocab], to this .npy file");
  options.drugs.add(command);
  add_common(command, options.common, "One JSON object: top, with ids and log-probabilities");
}

}  // namespace

void add_logits(CommandLine& line) {
  line.add<LogitsFlags>("logits", "Shows what the model expects after a text",
                        "krait logits --text \"It was a dark and stormy nigh\" --top 3", declare,
                        run);
}

}  // namespace krait::cli
