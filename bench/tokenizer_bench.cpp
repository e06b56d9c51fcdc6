// Loading and encoding of one tokenizer file, on one thread, as JSON for
// bench/peers/tokenizer_speed.py: krait_tokenizer_bench TOKENIZER TEXT [ROUNDS [IDS]]. The medians
// of the rounds, in time of the processor; IDS gets the ids.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"

namespace {

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path);
    std::exit(1);
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

double seconds_since(std::clock_t begin) {
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "krait_tokenizer_bench TOKENIZER TEXT [ROUNDS [IDS]]\n");
    return 2;
  }
  const std::string file = read_file(argv[1]);
  const std::string text = read_file(argv[2]);
  const int rounds = argc > 3 ? std::max(1, std::atoi(argv[3])) : 5;
  const bool is_json = file.starts_with('{');
  std::vector<double> loads;
  std::vector<double> encodes;
  std::vector<double> decodes;
  std::vector<krait::Token> tokens;
  for (int round = 0; round < rounds; ++round) {
    auto begin = std::clock();
    const auto tokenizer =
        is_json ? krait::read_tokenizer_json(file) : krait::read_sentencepiece(file);
    loads.push_back(seconds_since(begin));
    if (!tokenizer) {
      std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
      return 1;
    }
    begin = std::clock();
    tokens = (*tokenizer)->encode(text).value();
    encodes.push_back(seconds_since(begin));
    begin = std::clock();
    const std::string back = (*tokenizer)->decode(tokens);
    decodes.push_back(seconds_since(begin));
  }
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::printf(
      "{\"load_seconds\": %.5f, \"encode_mb_per_second\": %.3f, \"decode_mb_per_second\": %.3f, "
      "\"tokens\": %zu}\n",
      median(loads), megabytes / median(encodes), megabytes / median(decodes), tokens.size());
  if (argc > 4) {
    std::ofstream ids(argv[4]);
    for (const krait::Token token : tokens) ids << token << '\n';
  }
  return 0;
}
