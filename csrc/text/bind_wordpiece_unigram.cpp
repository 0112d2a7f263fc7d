// WordPiece, WordLevel and Unigram for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <sstream>

#include "text/python.h"
#include "text/train_unigram.h"
#include "text/train_wordpiece.h"
#include "text/unigram.h"
#include "text/wordpiece.h"

namespace py = pybind11;

namespace byhand::text {

namespace {

void at_least(const char* name, double value, double least) {
    if (value >= least) return;
    std::ostringstream text;
    text << name << " must be at least " << least << ", not " << value;
    throw std::invalid_argument(text.str());
}

PairScore score_named(const std::string& name) {
    if (name == "likelihood") return PairScore::kLikelihood;
    if (name == "ratio") return PairScore::kRatio;
    if (name == "frequency") return PairScore::kFrequency;
    throw std::invalid_argument("score must be likelihood, ratio or frequency, not " +
                                quoted(name));
}

std::size_t limit(const char* name, std::optional<std::int64_t> value) {
    if (!value) return static_cast<std::size_t>(-1);
    at_least(name, static_cast<double>(*value), 1);
    return static_cast<std::size_t>(*value);
}

void bind_training(py::module_& module) {
    using Strings = std::vector<std::string>;
    using Limit = std::optional<std::int64_t>;
    module.def(
        "train_wordpiece",
        [](WordCounts& counts, std::int64_t vocabulary_size, const Strings& special_tokens,
           const std::string& prefix, const std::string& score, std::uint64_t min_frequency,
           Limit limit_alphabet, const Strings& initial_alphabet, Limit max_token_length,
           std::int64_t max_characters, const py::object& progress) {
            at_least("vocabulary_size", static_cast<double>(vocabulary_size), 1);
            at_least("max_characters", static_cast<double>(max_characters), 1);
            WordPieceTraining options;
            options.vocabulary_size = static_cast<std::size_t>(vocabulary_size);
            options.special_tokens = special_tokens;
            options.prefix = prefix;
            options.score = score_named(score);
            options.min_frequency = min_frequency;
            options.limit_alphabet = limit("limit_alphabet", limit_alphabet);
            options.initial_alphabet = initial_alphabet;
            options.max_token_length = limit("max_token_length", max_token_length);
            options.max_characters = static_cast<std::size_t>(max_characters);
            std::vector<std::string> learned;
            {
                const py::gil_scoped_release release;
                learned = train_wordpiece(counts, options, reported(progress));
            }
            py::list vocabulary;
            for (const std::string& token : learned) vocabulary.append(py::bytes(token));
            return vocabulary;
        },
        py::arg("counts"), py::arg("vocabulary_size"), py::kw_only(),
        py::arg("special_tokens") = Strings{}, py::arg("prefix") = py::bytes("##"),
        py::arg("score") = "likelihood", py::arg("min_frequency") = 2,
        py::arg("limit_alphabet") = py::none(), py::arg("initial_alphabet") = Strings{},
        py::arg("max_token_length") = py::none(), py::arg("max_characters") = 100,
        py::arg("progress") = py::none());
    module.def(
        "train_unigram",
        [](WordCounts& counts, std::int64_t vocabulary_size, const Strings& special_tokens,
           bool byte_fallback, double character_coverage, const Strings& initial_alphabet,
           std::int64_t seed_size, std::int64_t max_token_length, double shrinking,
           std::int64_t em_steps, std::int64_t threads, const py::object& progress) {
            at_least("vocabulary_size", static_cast<double>(vocabulary_size), 1);
            at_least("seed_size", static_cast<double>(seed_size), 0);
            at_least("max_token_length", static_cast<double>(max_token_length), 1);
            at_least("em_steps", static_cast<double>(em_steps), 1);
            at_least("threads", static_cast<double>(threads), 1);
            if (!(character_coverage > 0 && character_coverage <= 1)) {
                throw std::invalid_argument("character_coverage must be above 0 and at most 1");
            }
            if (!(shrinking > 0 && shrinking < 1)) {
                throw std::invalid_argument("shrinking must be above 0 and below 1");
            }
            UnigramTraining options;
            options.vocabulary_size = static_cast<std::size_t>(vocabulary_size);
            options.special_tokens = special_tokens;
            options.byte_fallback = byte_fallback;
            options.character_coverage = character_coverage;
            options.initial_alphabet = initial_alphabet;
            options.seed_size = static_cast<std::size_t>(seed_size);
            options.max_token_length =
                static_cast<std::size_t>(std::min<std::int64_t>(max_token_length, 1000));
            options.shrinking = shrinking;
            options.em_steps = static_cast<int>(std::min<std::int64_t>(em_steps, 1000));
            options.threads = static_cast<int>(std::min<std::int64_t>(threads, 1024));
            std::vector<std::pair<std::string, double>> learned;
            {
                const py::gil_scoped_release release;
                learned = train_unigram(counts, options, reported(progress));
            }
            py::list vocabulary;
            for (const auto& [token, score] : learned) {
                vocabulary.append(py::make_tuple(py::bytes(token), score));
            }
            return vocabulary;
        },
        py::arg("counts"), py::arg("vocabulary_size"), py::kw_only(),
        py::arg("special_tokens") = Strings{}, py::arg("byte_fallback") = false,
        py::arg("character_coverage") = 0.9995, py::arg("initial_alphabet") = Strings{},
        py::arg("seed_size") = 1000000, py::arg("max_token_length") = 16,
        py::arg("shrinking") = 0.75, py::arg("em_steps") = 2, py::arg("threads") = 1,
        py::arg("progress") = py::none());
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
                 Strings tokens;
                 std::vector<double> scores;
                 for (const auto& [token, score] : vocabulary) {
                     tokens.push_back(token);
                     scores.push_back(score);
                 }
                 return std::make_shared<Unigram>(
                     tokens, scores, Unigram::Options{unk_id, byte_fallback, special, float32});
             }),
             py::arg("vocabulary"), py::kw_only(), py::arg("unk_id"), py::arg("byte_fallback"),
             py::arg("special") = Ids{}, py::arg("float32") = false, unlocked)
        .def(
            "nbest",
            [](const Unigram& model, const std::string& word, std::int64_t n) {
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
    bind_training(module);
}

}  // namespace byhand::text
