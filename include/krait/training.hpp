#pragma once

/// \file
/// Training: exact backward passes of models and blocks. In an archive of its own.

#include "krait/training/block_gradient.hpp"
#include "krait/training/model_gradient.hpp"
#include "krait/training/parameters.hpp"
#include "krait/training/workspace.hpp"
