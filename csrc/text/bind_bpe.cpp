// The bindings of byte-pair encoding and of the counts of words.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "text/bpe.h"
#include "text/counts.h"

namespace py = pybind11;

namespace byhand::text {

void bind_bpe(py::module_& module) {
    py::class_<WordCounts, std::shared_ptr<WordCounts>>(module, "WordCounts")
        .def(py::init<>())
        .def("__len__", &WordCounts::size)
        .def_property_readonly("bytes", &WordCounts::bytes)
        .def(
            "add",
            [](WordCounts& counts, const py::bytes& word, std::uint64_t count) {
                counts.add(std::string_view(word), count);
            },
            py::arg("word"), py::arg("count") = 1)
        .def("merge", &WordCounts::merge, py::arg("other"))
        .def("items", [](const WordCounts& counts) {
            py::list items;
            for (const CountedWord& counted : counts.items()) {
                items.append(py::make_tuple(py::bytes(counted.word), counted.count));
            }
            return items;
        });

    py::class_<Bpe, Model, std::shared_ptr<Bpe>>(module, "BPE")
        .def(py::init([](const std::vector<std::string>& vocabulary,
                         const std::optional<Bpe::Pairs>& merges, std::optional<std::string> unk,
                         bool fuse_unk, bool byte_fallback, std::string prefix, std::string suffix,
                         bool ignore_merges, double dropout, std::uint64_t seed,
                         std::optional<bool> byte_level) {
                 const py::gil_scoped_release release;
                 return std::make_shared<Bpe>(
                     vocabulary, merges,
                     BpeOptions{std::move(unk), fuse_unk, byte_fallback, std::move(prefix),
                                std::move(suffix), ignore_merges, dropout, seed, byte_level});
             }),
             py::arg("vocabulary"), py::arg("merges"), py::kw_only(), py::arg("unk") = py::none(),
             py::arg("fuse_unk") = false, py::arg("byte_fallback") = false,
             py::arg("prefix") = py::bytes(), py::arg("suffix") = py::bytes(),
             py::arg("ignore_merges") = false, py::arg("dropout") = 0.0, py::arg("seed") = 0,
             py::arg("byte_level") = py::none())
        .def_property_readonly("byte_level", &Bpe::byte_level)
        .def("encode_word", [](const Bpe& bpe, const py::bytes& word) {
            Tokens tokens;
            tokens.with_spans = true;
            const auto scratch = bpe.scratch();
            bpe.encode(std::string_view(word), 0, *scratch, tokens);
            std::vector<std::tuple<Id, std::int64_t, std::int64_t>> out;
            for (std::size_t i = 0; i < tokens.ids.size(); ++i) {
                out.emplace_back(tokens.ids[i], tokens.spans[i].begin, tokens.spans[i].end);
            }
            return out;
        });
}

}  // namespace byhand::text
