// Trains a byte-level model from nothing on a text file of yours, and lets it write. Killed at any
// moment and started again, it goes on; the result has the same bytes on every machine and for any
// number of threads.
//
//   train_bytes TEXT OUT [STEPS [CONFIG]]   CONFIG: a config.json; by default the smallest bundled
//                                           model's

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "krait/krait.hpp"
#include "krait/training.hpp"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "train_bytes TEXT OUT [STEPS [CONFIG]]\n");
    return 1;
  }
  const std::string text = krait::read_text_file(argv[1], std::size_t{1} << 30U).value();
  const std::string config =
      argc > 4 ? argv[4] : krait::bundled_model_path("krait-bytes-draft").value();

  krait::TrainTask task = krait::new_train_task(config, /*seed=*/0).value();
  for (const char byte : text) task.text.push_back(static_cast<unsigned char>(byte));
  const krait::TrainOptions options{.steps = argc > 3 ? std::atol(argv[3]) : 500,
                                    .batch = 4,
                                    .length = 256,
                                    .learning_rate = 8e-3,
                                    .schedule = krait::Schedule::cosine,
                                    .warmup = 20};
  krait::ThreadPool threads;
  const auto show = [](const krait::TrainProgress& done) {
    if (done.step.step % 50 == 0) {
      const double bits = done.step.loss / std::log(2.0);
      std::printf("step %4lld: %.4f bits per byte\n", static_cast<long long>(done.step.step), bits);
    }
    return krait::Flow::go_on;
  };
  const krait::TrainFiles files{.destination = argv[2], .resume = true};
  const auto trained = krait::train(std::move(task), options, files, threads, show).value();
  if (trained.was_finished) std::printf("%s was finished\n", argv[2]);

  const auto lm = krait::load_language_model(argv[2]).value();
  krait::Session session(lm.model, threads);
  krait::Sequence sequence(lm.model, lm.tokenizer->encode("It was ").value());
  const auto written = krait::generate(session, *lm.tokenizer, sequence,
                                       {.max_tokens = 100, .sampler = {.temperature = 0.5}});
  std::printf("It was %s\n", written.value().text.c_str());
}
