#pragma once

/// \file
/// The tools floor: what makes models from models and measures them. In a library of its own,
/// krait::tools.

#include "krait/tools/aqlm.hpp"
#include "krait/tools/convert.hpp"
#include "krait/tools/cost.hpp"
#include "krait/tools/drugs_report.hpp"
#include "krait/tools/evaluate.hpp"
#include "krait/tools/laser.hpp"
#include "krait/tools/laser_search.hpp"
#include "krait/tools/low_rank.hpp"
#include "krait/tools/machine.hpp"
#include "krait/tools/merge.hpp"
#include "krait/tools/quantize.hpp"
#include "krait/tools/routing.hpp"
