// The module _text: tokenizers. Compiled once, for the baseline instruction set.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "text/text.h"

namespace py = pybind11;
namespace text = byhand::text;

namespace byhand::text {
void bind_unicode(py::module_& module);
}

PYBIND11_MODULE(_text, module) {
    py::class_<text::Normaliser, std::shared_ptr<text::Normaliser>>(module, "Normaliser");
    py::class_<text::PreTokenizer, std::shared_ptr<text::PreTokenizer>>(module, "PreTokenizer");
    py::class_<text::Model, std::shared_ptr<text::Model>>(module, "Model")
        .def("__len__", &text::Model::size)
        .def("token",
             [](const text::Model& model, text::Id id) {
                 if (id < 0 || id >= model.size()) throw py::index_error("no such token");
                 return py::bytes(std::string(model.token(id)));
             })
        .def("id_of", [](const text::Model& model, const py::bytes& token) {
            return model.id_of(std::string_view(token));
        });
    text::bind_unicode(module);
}
