// Encodes one matrix additively and says how long that took, for comparisons with other encoders
// (peers/aqlm.py): the weights W [out, in] and, if they are there, the second moments of its inputs
// H [in, in] or [in] come from a safetensors file; codes, codebooks and scales go into another.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/tools/aqlm.hpp"

namespace krait::bench {
namespace {

struct Options {
  std::string input;
  std::string output;
  std::string scheme = "4x4g8";
  AqlmEffort effort;
  Index threads = 1;
};

bool parse(int argc, char** argv, Options& options) {
  const struct {
    std::string_view name;
    Index& value;
  } counts[] = {{"--beam", options.effort.beam},
                {"--rounds", options.effort.rounds},
                {"--threads", options.threads}};
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name.substr(0, 2) != "--") {
      std::string& path = options.input.empty() ? options.input : options.output;
      if (!path.empty()) return false;
      path = name;
      continue;
    }
    if (++i == argc) return false;
    bool is_known = name == "--scheme";
    if (is_known) options.scheme = argv[i];
    for (const auto& count : counts) {
      if (name != count.name) continue;
      count.value = std::atoll(argv[i]);
      is_known = count.value > 0;
    }
    if (!is_known) return false;
  }
  return !options.output.empty();
}

Result<const TensorView*> find_floats(const WeightStore& store, const char* name) {
  const WeightStore::Entry* entry = store.find(name);
  if (entry == nullptr || entry->tensor.dtype != DType::f32 || entry->tensor.shape.rank() > 2) {
    return Error{ErrorCode::bad_format, std::string("[encode] ") + name +
                                            ": expected f32 numbers of at most two axes, found " +
                                            (entry == nullptr ? "none" : "others")};
  }
  return &entry->tensor;
}

Result<void> run(const Options& options) {
  KRAIT_ASSIGN_OR_RETURN(auto file, open_file(options.input));
  WeightStore store;
  KRAIT_RETURN_IF_ERROR(read_safetensors(std::move(file), store));
  KRAIT_ASSIGN_OR_RETURN(const TensorView* W, find_floats(store, "W"));
  if (W->shape.rank() != 2) return Error{ErrorCode::bad_format, "[encode] W: expected a matrix"};
  SecondMoments H{.in = W->shape[1], .values = {}};
  if (store.contains("H")) {
    KRAIT_ASSIGN_OR_RETURN(const TensorView* moments, find_floats(store, "H"));
    const auto* values = static_cast<const float*>(moments->data);
    H.values.assign(values, values + moments->size());
  }
  KRAIT_ASSIGN_OR_RETURN(const AqlmScheme scheme, parse_aqlm_scheme(options.scheme));
  ThreadPool threads(static_cast<int>(options.threads));
  const auto begin = std::chrono::steady_clock::now();
  KRAIT_ASSIGN_OR_RETURN(const AqlmMatrix matrix,
                         encode_aqlm({static_cast<const float*>(W->data), W->shape[0], W->shape[1]},
                                     H, scheme, options.effort, 0, threads));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  KRAIT_RETURN_IF_ERROR(write_safetensors(
      options.output, {{"codes",
                        {matrix.codes.data(),
                         DType::i16,
                         {matrix.out, matrix.in / scheme.in_group, scheme.codebooks}}},
                       {"codebooks",
                        {matrix.codebooks.data(),
                         DType::f16,
                         {scheme.codebooks, scheme.codewords(), 1, scheme.in_group}}},
                       {"scales", {matrix.scales.data(), DType::f16, {matrix.out, 1, 1, 1}}}}));
  std::printf("{\"error\": %.6g, \"seconds\": %.3f, \"bits_per_weight\": %.4f}\n", matrix.error,
              seconds.count(), bits_per_weight(scheme, matrix.out, matrix.in));
  return {};
}

}  // namespace
}  // namespace krait::bench

int main(int argc, char** argv) {
  krait::bench::Options options;
  if (!krait::bench::parse(argc, argv, options)) {
    std::fprintf(stderr,
                 "usage: krait_encode_matrix IN.safetensors OUT.safetensors [--scheme 4x4g8] "
                 "[--beam N] [--rounds N] [--threads N]\n");
    return 2;
  }
  const auto result = krait::bench::run(options);
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  return result ? 0 : 1;
}
