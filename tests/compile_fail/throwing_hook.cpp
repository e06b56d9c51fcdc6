// error: looser exception specification|looser throw specifier|more lax than base
#include "krait/modules/hook.hpp"

class Hook final : public krait::ActivationHook {
 public:
#ifdef KRAIT_WRONG
  void at(const krait::ActivationPlace&, krait::MatrixView<float>) override {}
#else
  void at(const krait::ActivationPlace&, krait::MatrixView<float>) noexcept override {}
#endif
};
