// Python's view of csrc/text/pipeline.h.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <variant>

#include "text/pipeline.h"
#include "text/python.h"

namespace py = pybind11;

namespace byhand::text {
namespace {

using Added = std::tuple<py::bytes, Id, bool, bool, bool, bool, bool>;

std::shared_ptr<Pipeline> made(Normalisers normalisers, PreTokenizers pretokenizers,
                               std::shared_ptr<Model> model, const std::vector<Added>& added,
                               Normalisers piece_normalisers, int cuts) {
    Pipeline::Parts parts{
        std::move(normalisers),       std::move(pretokenizers), std::move(model), {},
        std::move(piece_normalisers), static_cast<Cuts>(cuts)};
    for (const auto& [content, id, special, single_word, lstrip, rstrip, normalized] : added) {
        parts.added.push_back(
            {std::string(content), id, special, single_word, lstrip, rstrip, normalized});
    }
    return std::make_shared<Pipeline>(std::move(parts));
}

Allowed allowed_of(std::optional<std::vector<Id>> ids) {
    Allowed allowed{!ids.has_value(), ids.value_or(std::vector<Id>{})};
    std::sort(allowed.ids.begin(), allowed.ids.end());
    return allowed;
}

// Positions of characters in a text, from those of bytes.
class CharacterCounter {
  public:
    explicit CharacterCounter(std::string_view text) : text_(text) {
        std::int64_t characters = 0;
        for (std::size_t i = 0; i < text.size(); ++i) {
            if (i % kStep == 0) before_.push_back(characters);
            characters += starts(i);
        }
        before_.push_back(characters);
    }
    // The characters that begin before byte `at`.
    std::int64_t before(std::int64_t at) const {
        const std::size_t end = std::min(static_cast<std::size_t>(at), text_.size());
        std::size_t i = end / kStep * kStep;
        if (end == text_.size()) return before_.back();
        std::int64_t characters = before_[end / kStep];
        for (; i < end; ++i) characters += starts(i);
        return characters;
    }
    // A part of a character counts as the whole.
    Span of(Span bytes) const {
        const bool inside = bytes.begin < static_cast<std::int64_t>(text_.size()) &&
                            !starts(static_cast<std::size_t>(bytes.begin));
        return {before(bytes.begin) - inside, before(bytes.end)};
    }

  private:
    static constexpr std::size_t kStep = 64;
    bool starts(std::size_t i) const { return !continues(text_[i]); }
    std::string_view text_;
    std::vector<std::int64_t> before_;
};

py::array_t<std::int64_t> array_of(const std::vector<Id>& ids) {
    py::array_t<std::int64_t> array(static_cast<py::ssize_t>(ids.size()));
    std::copy(ids.begin(), ids.end(), array.mutable_data());
    return array;
}

py::object encode(const Pipeline& pipeline, const py::str& text,
                  std::optional<std::vector<Id>> allowed, bool offsets) {
    const Utf8 utf8(text, "");
    Tokens tokens;
    tokens.with_spans = offsets;
    {
        const py::gil_scoped_release released;
        pipeline.encode(utf8.view(), allowed_of(std::move(allowed)), tokens, check_signals);
    }
    if (!offsets) return array_of(tokens.ids);
    py::array_t<std::int64_t> spans(
        {static_cast<py::ssize_t>(tokens.spans.size()), py::ssize_t{2}});
    std::int64_t* out = spans.mutable_data();
    const CharacterCounter counter(utf8.view());
    for (const Span bytes : tokens.spans) {
        const Span characters = counter.of(bytes);
        *out++ = characters.begin;
        *out++ = characters.end;
    }
    return py::make_tuple(array_of(tokens.ids), spans);
}

// Texts as UTF-8.
class Texts {
  public:
    explicit Texts(const std::vector<py::str>& texts) {
        encoded_.reserve(texts.size());
        for (std::size_t i = 0; i < texts.size(); ++i) {
            encoded_.emplace_back(texts[i], "text " + std::to_string(i) + ": ");
            views_.push_back(encoded_.back().view());
        }
    }
    const std::vector<std::string_view>& views() const { return views_; }

  private:
    std::vector<Utf8> encoded_;
    std::vector<std::string_view> views_;
};

py::tuple encode_batch(const Pipeline& pipeline, const std::vector<py::str>& texts,
                       std::optional<std::vector<Id>> allowed, int threads) {
    const Texts utf8(texts);
    std::vector<Id> ids;
    std::vector<std::int64_t> rows;
    {
        const py::gil_scoped_release released;
        pipeline.encode_batch(utf8.views(), allowed_of(std::move(allowed)), threads, ids, rows,
                              check_signals);
    }
    return py::make_tuple(array_of(ids), py::array_t<std::int64_t>(
                                             static_cast<py::ssize_t>(rows.size()), rows.data()));
}

void count_words(const Pipeline& pipeline, const std::variant<py::str, std::vector<py::str>>& given,
                 WordCounts& counts, int threads) {
    const bool one = std::holds_alternative<py::str>(given);
    const Texts utf8(one ? std::vector<py::str>{std::get<py::str>(given)}
                         : std::get<std::vector<py::str>>(given));
    const py::gil_scoped_release released;
    pipeline.count(utf8.views(), counts, threads, check_signals);
}

py::bytes decode_bytes(const Pipeline& pipeline,
                       const py::array_t<std::int64_t, py::array::c_style>& ids) {
    return pipeline.decode(ids.data(), static_cast<std::size_t>(ids.size()));
}

// The last character of a text before which it can be divided; -1 if there is none.
py::ssize_t last_cut(const py::str& text, int cuts) {
    const Utf8 utf8(text, "");
    const std::string_view bytes = utf8.view();
    for (std::size_t at = bytes.size(); at-- > 1;) {
        if (is_cut(bytes, at, static_cast<Cuts>(cuts))) {
            return static_cast<py::ssize_t>(
                CharacterCounter(bytes).before(static_cast<std::int64_t>(at)));
        }
    }
    return -1;
}

}  // namespace

void bind_pipeline(py::module_& module) {
    py::class_<Pipeline, std::shared_ptr<Pipeline>>(module, "Pipeline")
        .def(py::init(&made), py::arg("normalisers"), py::arg("pretokenizers"), py::arg("model"),
             py::arg("added"), py::arg("piece_normalisers") = Normalisers{}, py::arg("cuts") = 0)
        .def("__len__", &Pipeline::size)
        .def_property_readonly(
            "cuts", [](const Pipeline& pipeline) { return static_cast<int>(pipeline.cuts()); })
        .def("encode", &encode, py::arg("text"), py::arg("allowed"), py::arg("offsets") = false)
        .def("encode_batch", &encode_batch, py::arg("texts"), py::arg("allowed"),
             py::arg("threads") = 1)
        .def("count_words", &count_words, py::arg("text"), py::arg("counts"),
             py::arg("threads") = 1)
        .def("decode_bytes", &decode_bytes, py::arg("ids"));
    module.def("last_cut", &last_cut, py::arg("text"), py::arg("cuts"));
}

}  // namespace byhand::text
