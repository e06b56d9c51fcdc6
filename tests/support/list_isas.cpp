// Which instruction sets the tests compare on this machine, and which it lacks: a green run says
// nothing about the latter.

#include "krait/core/cpu.hpp"

#include <algorithm>
#include <cstdio>
#include <string>

namespace {

using krait::Isa;

// Whether code for the level exists in this build.
bool is_compiled(Isa isa) {
#if defined(__x86_64__)
  return isa != Isa::neon;
#elif defined(__aarch64__)
  return isa == Isa::scalar || isa == Isa::neon;
#else
  return isa == Isa::scalar;
#endif
}

}  // namespace

int main() {
  const auto here = krait::available_isas();
  std::string compared;
  std::string lacking;
  for (int i = 0; i < krait::isa_count; ++i) {
    const auto isa = static_cast<Isa>(i);
    if (!is_compiled(isa)) continue;
    const bool has = std::find(here.begin(), here.end(), isa) != here.end();
    (has ? compared : lacking).append(" ").append(krait::to_string(isa));
  }
  std::printf("Instruction sets compared:%s\n", compared.c_str());
  std::printf("Not compared, since this machine lacks them:%s\n",
              lacking.empty() ? " none" : lacking.c_str());
}
