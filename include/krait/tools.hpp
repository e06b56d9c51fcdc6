#pragma once

/// \file
/// The tools floor: what makes models from models. In a library of its own, krait::tools.

#include "krait/tools/aqlm.hpp"
#include "krait/tools/evaluate.hpp"
#include "krait/tools/low_rank.hpp"
#include "krait/tools/quantize.hpp"
#include "krait/tools/routing.hpp"
