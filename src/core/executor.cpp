#include "krait/core/executor.hpp"

#include <atomic>

namespace krait {
inline namespace v0_1 {

Executor::~Executor() = default;

void parallel_for_blocks(Executor& executor, Index n, Index block,
                         FunctionRef<void(Range, int)> body) {
  if (n <= 0) return;
  const Index blocks = (n + block - 1) / block;
  const Index tasks = std::min<Index>(blocks, executor.width());
  std::atomic<Index> next{0};
  executor.run(static_cast<int>(tasks), [&](int task) {
    const FloatEnvironment environment;
    for (;;) {
      const Index first = next.fetch_add(1, std::memory_order_relaxed) * block;
      if (first >= n) return;
      body(Range{first, std::min(n, first + block)}, task);
    }
  });
}

}  // namespace v0_1
}  // namespace krait
