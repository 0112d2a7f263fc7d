// WordPiece, WordLevel and Unigram for Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "text/unigram.h"
#include "text/wordpiece.h"

namespace py = pybind11;

namespace byhand::text {

namespace {

void check_nbest(std::int64_t n) {
    if (n < 1) throw std::invalid_argument("n must be at least 1, not " + std::to_string(n));
}

}  // namespace

void bind_wordpiece_unigram(py::module_& module) {
    using Ids = std::vector<Id>;
    using Strings = std::vector<std::string>;
    using Unk = std::optional<std::string>;
    const auto unlocked = py::call_guard<py::gil_scoped_release>();

    py::class_<WordPiece, Model, std::shared_ptr<WordPiece>>(module, "WordPiece")
        .def(py::init<const Strings&, Unk, const std::string&, std::int64_t, const Ids&>(),
             py::arg("vocabulary"), py::kw_only(), py::arg("unk"), py::arg("prefix"),
             py::arg("max_characters"), py::arg("special") = Ids{}, unlocked);
    py::class_<WordLevel, Model, std::shared_ptr<WordLevel>>(module, "WordLevel")
        .def(py::init<const Strings&, Unk, const Ids&>(), py::arg("vocabulary"), py::kw_only(),
             py::arg("unk"), py::arg("special") = Ids{}, unlocked);

    py::class_<UnigramSampler, Model, std::shared_ptr<UnigramSampler>>(module, "UnigramSampler");
    py::class_<Unigram, Model, std::shared_ptr<Unigram>>(module, "Unigram")
        .def(py::init([](const std::vector<std::pair<std::string, double>>& vocabulary,
                         std::optional<Id> unk_id, bool byte_fallback, const Ids& special,
                         bool float32) {
                 return std::make_shared<Unigram>(
                     vocabulary, Unigram::Options{unk_id, byte_fallback, special, float32});
             }),
             py::arg("vocabulary"), py::kw_only(), py::arg("unk_id"), py::arg("byte_fallback"),
             py::arg("special") = Ids{}, py::arg("float32") = false, unlocked)
        .def(
            "nbest",
            [](const Unigram& model, const std::string& word, std::int64_t n) {
                check_nbest(n);
                std::vector<std::pair<Ids, double>> out;
                for (auto& division : model.best(word, n)) {
                    out.emplace_back(std::move(division.ids), division.score);
                }
                return out;
            },
            py::arg("word"), py::arg("n"), unlocked)
        .def(
            "sampling",
            [](std::shared_ptr<Unigram> model, double alpha, std::int64_t nbest,
               std::uint64_t seed) {
                return std::make_shared<UnigramSampler>(std::move(model), alpha, nbest, seed);
            },
            py::arg("alpha"), py::arg("nbest"), py::arg("seed"))
        .def(
            "sample",
            [](std::shared_ptr<Unigram> model, const std::string& word, double alpha,
               std::int64_t nbest, std::uint64_t seed) {
                Model::Scratch none;
                Tokens out;
                UnigramSampler(std::move(model), alpha, nbest, seed).encode(word, 0, none, out);
                return out.ids;
            },
            py::arg("word"), py::arg("alpha"), py::arg("nbest"), py::arg("seed"), unlocked);
}

}  // namespace byhand::text
