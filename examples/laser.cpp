// LASER: cuts matrices of a model to a lower rank, in memory, and shows what that saves and costs.
//
//   laser [MODEL [FRACTION [TEXT]]]   MODEL: a checkpoint, or the name of a bundled model
//                                     FRACTION: of the rank up to which factors are smaller (0.9)
//                                     TEXT: a file to score; a paragraph of a novel by default

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "krait/krait.hpp"
#include "krait/tools.hpp"

namespace {

constexpr const char* paragraph =
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in "
    "my purse, and nothing particular to interest me on shore, I thought I would sail about a "
    "little and see the watery part of the world. It is a way I have of driving off the spleen and "
    "regulating the circulation. Whenever I find myself growing grim about the mouth; whenever it "
    "is a damp, drizzly November in my soul; whenever I find myself involuntarily pausing before "
    "coffin warehouses, and bringing up the rear of every funeral I meet; then, I account it high "
    "time to get to sea as soon as I can.\n";

void show(const char* what, const krait::Model& model, const krait::Tokenizer& tokenizer,
          const std::vector<krait::Token>& text) {
  krait::ThreadPool threads;
  krait::Session session(model, threads);
  const auto begin = std::chrono::steady_clock::now();
  const auto found = krait::perplexity(session, tokenizer, text).value();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  const krait::ModelPlan& plan = model.plan();
  std::printf("%-8s%10lld bytes of weights, %8.0f tokens per second, %.4f bits per byte\n", what,
              static_cast<long long>(plan.in_place_bytes + plan.owned_bytes),
              static_cast<double>(found.tokens) / time.count(), found.bits_per_byte());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string path = argc > 1 ? argv[1] : "krait-bytes-2m";
  const double fraction = argc > 2 ? std::atof(argv[2]) : 0.9;
  const auto original = krait::load_language_model(path).value();
  const std::string text =
      argc > 3 ? krait::read_text_file(argv[3], std::size_t{1} << 30U).value() : paragraph;
  const auto tokens = original.tokenizer->encode(text).value();

  // Every whole matrix of the layers, where factors of the lower rank have fewer weights.
  const krait::CheckpointPlan plan = krait::plan_checkpoint(path).value();
  std::vector<krait::LaserCut> cuts;
  for (const krait::LaserMatrix& matrix : krait::laser_matrices(plan)) {
    if (matrix.layer < 0 || !matrix.is_whole() || matrix.is_dense) continue;
    const krait::Index even = matrix.rows * matrix.cols / (matrix.rows + matrix.cols);
    const auto rank = static_cast<krait::Index>(fraction * static_cast<double>(even));
    cuts.push_back({matrix.layer, matrix.name, rank});
  }
  krait::ThreadPool threads;
  const krait::Model smaller = krait::cut_model(plan, cuts, threads).value();

  show("before", original.model, *original.tokenizer, tokens);
  show("after", smaller, *original.tokenizer, tokens);
  std::printf("%zu matrices cut; all other weights are shared\n", cuts.size());
}
