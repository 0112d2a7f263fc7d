// The bindings of byte-pair encoding and of the counts of words.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "text/bpe.h"
#include "text/counts.h"
#include "text/python.h"
#include "text/train_bpe.h"

namespace py = pybind11;

namespace byhand::text {

void bind_bpe(py::module_& module) {
    py::class_<WordCounts, std::shared_ptr<WordCounts>>(module, "WordCounts")
        .def(py::init<>())
        .def("__len__", &WordCounts::size)
        .def(
            "add",
            [](WordCounts& counts, const py::bytes& word, std::uint64_t count) {
                counts.add(std::string_view(word), count);
            },
            py::arg("word"), py::arg("count") = 1)
        .def("merge", &WordCounts::merge, py::arg("other"))
        .def(
            "take_most_frequent",
            [](WordCounts& counts, std::size_t most, std::uint64_t min_count) {
                py::list words;
                const auto before = [](const Counted& a, const Counted& b) {
                    return a.count != b.count ? a.count > b.count : a.word < b.word;
                };
                counts.drain_sorted(most, before, [&](std::string_view word, std::uint64_t count) {
                    if (count >= min_count) words.append(py::bytes(word.data(), word.size()));
                });
                return words;
            },
            py::arg("most"), py::arg("min_count"))
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
        .def_property_readonly("byte_level", &Bpe::byte_level);

    module.def(
        "train_bpe",
        [](WordCounts& counts, std::int64_t vocabulary_size, std::uint64_t min_frequency,
           std::vector<std::string> special_tokens, std::string prefix, std::string suffix,
           bool byte_level, std::optional<std::size_t> limit_alphabet,
           std::vector<std::string> initial_alphabet, std::optional<std::size_t> max_token_length,
           const py::object& progress) {
            BpeTraining training;
            training.vocabulary_size = vocabulary_size;
            training.min_frequency = min_frequency;
            training.special_tokens = std::move(special_tokens);
            training.prefix = std::move(prefix);
            training.suffix = std::move(suffix);
            training.byte_level = byte_level;
            training.limit_alphabet = limit_alphabet;
            training.initial_alphabet = std::move(initial_alphabet);
            training.max_token_length = max_token_length;
            LearnedBpe learned;
            {
                const py::gil_scoped_release release;
                learned = train_bpe(counts, training, reported(progress));
            }
            py::list vocabulary, merges;
            for (const std::string& token : learned.vocabulary) vocabulary.append(py::bytes(token));
            for (const auto& [left, right] : learned.merges) {
                merges.append(py::make_tuple(py::bytes(left), py::bytes(right)));
            }
            return py::make_tuple(std::move(vocabulary), std::move(merges));
        },
        py::arg("counts"), py::arg("vocabulary_size"), py::kw_only(), py::arg("min_frequency") = 0,
        py::arg("special_tokens") = py::list(), py::arg("prefix") = py::bytes(),
        py::arg("suffix") = py::bytes(), py::arg("byte_level") = true,
        py::arg("limit_alphabet") = py::none(), py::arg("initial_alphabet") = py::list(),
        py::arg("max_token_length") = py::none(), py::arg("progress") = py::none());
}

}  // namespace byhand::text
