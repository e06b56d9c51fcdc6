#pragma once

/// \file
/// Everything an application needs: floors core to decoding.

#include "krait/core.hpp"
#include "krait/decoding.hpp"
#include "krait/io.hpp"
#include "krait/kernels.hpp"
#include "krait/loading.hpp"
#include "krait/models.hpp"
#include "krait/modules.hpp"
#include "krait/text.hpp"
#include "krait/weights.hpp"
