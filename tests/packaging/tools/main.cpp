// Makes a small model of a large one, with what is installed: main MODEL

#include <cstdio>
#include <filesystem>
#include <string>

#include "krait/krait.hpp"
#include "krait/tools.hpp"

int main(int, char** argv) {
  const std::string folder = std::string(argv[0]) + ".model";
  std::filesystem::remove_all(folder);
  krait::SerialExecutor executor;
  const auto summary = krait::quantize_checkpoint(argv[1], folder, "q8", executor).value();
  const krait::Model model = krait::load_model(folder).value();
  std::filesystem::remove_all(folder);
  std::printf("%lld bytes\n%lld parameters\n", static_cast<long long>(summary.bytes_after),
              static_cast<long long>(model.plan().parameters));
}
