// Parts of the Python module that are bound in files of their own, and what all of them need.
#pragma once

#include <nanobind/nanobind.h>
#include <unistd.h>

namespace tk {

// Other Python threads run while this lives.
//
// Python before 3.14 ends a daemon thread that comes back while the interpreter shuts down by unwinding its stack
// (pthread_exit). Neither a destructor nor nanobind's frames let that pass: the process would abort. Such a thread
// sleeps here instead until the process has ended.
class WithoutGil {
public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            while (true) pause();
        }
    }
    WithoutGil(const WithoutGil&) = delete;

private:
    PyThreadState* state_;
};

void bind_sampler(nanobind::module_& module);
void bind_ops(nanobind::module_& module);
void bind_screen(nanobind::module_& module);
void bind_roofline(nanobind::module_& module);
void bind_training(nanobind::module_& module);

}  // namespace tk
