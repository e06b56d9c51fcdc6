// Masks of constrained output: for each token of documents that schemas allow, the time to find out
// which tokens may come next and to take the one that does. With the vocabulary of GPT-NeoX.
//
// `first`: a constraint that was just made, so what it learns of the grammar is paid for; `later`:
// one whose grammar has been used before, as in a server.

#include "krait/decoding/grammar.hpp"

#include <time.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "bench/support.hpp"

namespace krait::bench {
namespace {

using nlohmann::ordered_json;

std::string read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Of the processor's time, so that others who use the machine count less.
double now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// As the constraint spaces it.
std::string spaced(const ordered_json& value) {
  std::string text;
  if (value.is_object()) {
    for (const auto& [key, member] : value.items()) {
      text += (text.empty() ? "" : ", ") + ordered_json(key).dump() + ": " + spaced(member);
    }
    return "{" + text + "}";
  }
  if (value.is_array()) {
    for (const auto& item : value) text += (text.empty() ? "" : ", ") + spaced(item);
    return "[" + text + "]";
  }
  return value.dump();
}

struct Case {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const Vocabulary> vocabulary;
  std::string schema;
  std::vector<std::vector<Token>> documents;
};

// Seconds of a document's masks, one by one.
bool follow(const Case& one, const Constraint& fresh, std::vector<double>& seconds) {
  for (const std::vector<Token>& document : one.documents) {
    const auto constraint = fresh.clone();
    TokenMask mask(one.tokenizer->vocab());
    for (const Token token : document) {
      const double begun = now();
      mask.allow_all();
      constraint->restrict_to(mask);
      const bool is_allowed = mask.allows(token);
      constraint->accept(token);
      seconds.push_back(now() - begun);
      if (!is_allowed) return false;
    }
  }
  return true;
}

void run(benchmark::State& state, const Case& one, bool is_first) {
  std::vector<double> seconds;
  std::vector<double> compiling;
  const auto make = [&] {
    const double begun = now();
    auto made = Grammar::from_json_schema(one.schema).value().constrain(*one.vocabulary).value();
    compiling.push_back(now() - begun);
    return made;
  };
  auto constraint = make();
  std::vector<double> ignored;
  if (!is_first && !follow(one, *constraint, ignored)) return state.SkipWithError("a wrong mask");
  for (auto _ : state) {
    state.PauseTiming();
    if (is_first) constraint = make();
    state.ResumeTiming();
    if (!follow(one, *constraint, seconds)) return state.SkipWithError("a wrong mask");
  }
  double sum = 0.0;
  for (const double s : seconds) sum += s;
  std::ranges::sort(seconds);
  std::ranges::sort(compiling);
  state.counters["us/token"] = 1e6 * sum / static_cast<double>(seconds.size());
  state.counters["p99_us"] = 1e6 * seconds[seconds.size() * 99 / 100];
  state.counters["most_us"] = 1e6 * seconds.back();
  state.counters["compile_ms"] = 1e3 * compiling[compiling.size() / 2];
}

}  // namespace

void register_benchmarks() {
  const std::string root = KRAIT_SOURCE_DIR;
  const auto tokenizer =
      read_tokenizer_json(read(root + "/tests/data/gpt-neox-20b/tokenizer.json")).value();
  const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  const auto cases = ordered_json::parse(read(root + "/bench/decoding/grammar_cases.json"));
  for (const auto& entry : cases) {
    Case one{tokenizer, vocabulary, entry["schema"].dump(), {}};
    for (const auto& document : entry["documents"]) {
      one.documents.push_back(tokenizer->encode(spaced(document)).value());
    }
    for (const bool is_first : {true, false}) {
      const std::string name =
          "grammar/" + entry["name"].get<std::string>() + (is_first ? "/first" : "/later");
      benchmark::RegisterBenchmark(name.c_str(), [one, is_first](benchmark::State& state) {
        run(state, one, is_first);
      })->Iterations(is_first ? 20 : 200);
    }
  }
}

}  // namespace krait::bench
