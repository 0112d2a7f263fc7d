// The module _text: tokenizers. Compiled once, for the baseline instruction set.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "text/text.h"

namespace py = pybind11;
namespace text = byhand::text;

namespace byhand::text {
void bind_pipeline(py::module_& module);
void bind_bpe(py::module_& module);
void bind_wordpiece_unigram(py::module_& module);
void bind_unicode(py::module_& module);
}  // namespace byhand::text

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
        .def("id_of", [](const text::Model& model,
                         const py::bytes& token) { return model.id_of(std::string_view(token)); })
        .def(
            "encode_word",
            [](const text::Model& model, const std::string& word) {
                text::Tokens tokens;
                tokens.with_spans = true;
                const auto scratch = model.scratch();
                model.encode(word, 0, *scratch, tokens);
                std::vector<std::tuple<text::Id, std::int64_t, std::int64_t>> out;
                for (std::size_t i = 0; i < tokens.ids.size(); ++i) {
                    out.emplace_back(tokens.ids[i], tokens.spans[i].begin, tokens.spans[i].end);
                }
                return out;
            },
            py::arg("word"), py::call_guard<py::gil_scoped_release>());
    text::bind_pipeline(module);
    text::bind_bpe(module);
    text::bind_wordpiece_unigram(module);
    text::bind_unicode(module);
}
