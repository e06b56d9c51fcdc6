// error: no match|no viable
#include "krait/core/tensor_view.hpp"

void use(krait::MatrixView<const float> constant, krait::MatrixView<float> writable) {
#ifdef KRAIT_WRONG
  writable = constant;
#else
  constant = writable;
#endif
}
