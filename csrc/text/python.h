// What the bindings share.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include "text/threads.h"

namespace byhand::text {

// A str as UTF-8, without the copy that Python would keep in the str. Throws if it has a lone
// surrogate; `name` is what the sentence begins with.
class Utf8 {
  public:
    Utf8(const pybind11::str& text, const std::string& name) : text_(text) {
        if (PyUnicode_IS_ASCII(text.ptr())) {
            const auto size = static_cast<std::size_t>(PyUnicode_GET_LENGTH(text.ptr()));
            view_ = {static_cast<const char*>(PyUnicode_DATA(text.ptr())), size};
            return;
        }
        bytes_ = pybind11::reinterpret_steal<pybind11::object>(PyUnicode_AsUTF8String(text.ptr()));
        if (!bytes_) {
            if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError) == 0) {
                throw pybind11::error_already_set();
            }
            PyErr_Clear();
            throw std::invalid_argument(name + surrogate(text));
        }
        view_ = {PyBytes_AS_STRING(bytes_.ptr()),
                 static_cast<std::size_t>(PyBytes_GET_SIZE(bytes_.ptr()))};
    }
    std::string_view view() const { return view_; }

  private:
    static std::string surrogate(const pybind11::str& text) {
        Py_ssize_t at = 0;
        while ((PyUnicode_READ_CHAR(text.ptr(), at) & ~0x7FFu) != 0xD800) ++at;
        char code[16];
        std::snprintf(code, sizeof code, "U+%04X",
                      static_cast<unsigned>(PyUnicode_READ_CHAR(text.ptr(), at)));
        return std::string("the character ") + code + " at position " + std::to_string(at) +
               " of the text is half of a surrogate pair";
    }
    pybind11::str text_;
    pybind11::object bytes_;
    std::string_view view_;
};

// A Tick: lets Ctrl-C stop a long call. Takes the GIL.
inline void check_signals() {
    const pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
}

// Calls `progress`, unless it is None, a few times a second; each time an interrupt may stop the
// work, as may an exception of the callback. Takes the GIL.
inline Progress reported(const pybind11::object& progress) {
    using clock = std::chrono::steady_clock;
    return [&progress, last = clock::now()](std::int64_t done, std::int64_t all) mutable {
        if (done < all && clock::now() - last < std::chrono::milliseconds(100)) return;
        last = clock::now();
        const pybind11::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
        if (!progress.is_none()) progress(done, all);
    };
}

}  // namespace byhand::text
