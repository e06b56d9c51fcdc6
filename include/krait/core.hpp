#pragma once

/// \file
/// The core floor: errors, types, views, executors, random numbers, CPU levels.

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/bookings.hpp"
#include "krait/core/cache_pages.hpp"
#include "krait/core/config.hpp"
#include "krait/core/cpu.hpp"
#include "krait/core/dtype.hpp"
#include "krait/core/error.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/core/flow.hpp"
#include "krait/core/function.hpp"
#include "krait/core/function_ref.hpp"
#include "krait/core/metadata.hpp"
#include "krait/core/profile.hpp"
#include "krait/core/rng.hpp"
#include "krait/core/scratch.hpp"
#include "krait/core/shape.hpp"
#include "krait/core/tensor.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/core/thread_pool.hpp"
