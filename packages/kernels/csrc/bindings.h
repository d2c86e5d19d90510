// Parts of the Python module that are bound in files of their own.
#pragma once

#include <nanobind/nanobind.h>

namespace tk {
void bind_sampler(nanobind::module_& module);
void bind_ops(nanobind::module_& module);
void bind_roofline(nanobind::module_& module);
void bind_training(nanobind::module_& module);
}
