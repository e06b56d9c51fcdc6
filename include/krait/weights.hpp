#pragma once

/// \file
/// Weights: matrices in every form, and the places in a checkpoint where they are found.

#include "krait/weights/adapter.hpp"
#include "krait/weights/aqlm.hpp"
#include "krait/weights/binder.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/form.hpp"
#include "krait/weights/linear.hpp"
#include "krait/weights/matrix.hpp"
#include "krait/weights/options.hpp"
#include "krait/weights/overlay.hpp"
#include "krait/weights/scope.hpp"
