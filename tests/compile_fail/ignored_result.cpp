// error: ignoring return
#include "krait/core/error.hpp"

krait::Result<void> work();
krait::Result<int> count();

void use() {
#ifdef KRAIT_WRONG
  work();
  count();
#else
  if (!work() || !count()) return;
#endif
}
