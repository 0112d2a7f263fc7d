// Normalisers and pre-tokenizers for Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <stdexcept>

#include "text/charsmap.h"
#include "text/normalise.h"
#include "text/pretokenise.h"

namespace py = pybind11;

namespace byhand::text {
namespace {

template <class Value>
using Choices = std::initializer_list<std::pair<const char*, Value>>;

template <class Value>
Value choose(const std::string& name, Choices<Value> choices) {
    for (const auto& [known, value] : choices) {
        if (name == known) return value;
    }
    throw std::invalid_argument("unknown name: " + name);
}

Form form_named(const std::string& name) {
    return choose<Form>(
        name, {{"nfc", Form::nfc}, {"nfd", Form::nfd}, {"nfkc", Form::nfkc}, {"nfkd", Form::nfkd}});
}

Behaviour behaviour_named(const std::string& name) {
    return choose<Behaviour>(name, {{"removed", Behaviour::removed},
                                    {"isolated", Behaviour::isolated},
                                    {"merged_with_previous", Behaviour::merged_with_previous},
                                    {"merged_with_next", Behaviour::merged_with_next},
                                    {"contiguous", Behaviour::contiguous}});
}

std::uint16_t classes_named(const std::string& name) {
    return choose<std::uint16_t>(name, {{"space", kSpace},
                                        {"nonspace", kLetter | kNumber | kOther},
                                        {"number", kNumber},
                                        {"mark", kMark},
                                        {"punctuation", kPunctuation | kAsciiPunctuation}});
}

py::array_t<std::int64_t> array_of(const std::vector<Span>& spans) {
    static_assert(sizeof(Span) == 2 * sizeof(std::int64_t));
    py::array_t<std::int64_t> made({static_cast<py::ssize_t>(spans.size()), py::ssize_t{2}});
    if (!spans.empty()) std::memcpy(made.mutable_data(), spans.data(), spans.size() * sizeof(Span));
    return made;
}

// Threads may call it without the GIL, and may destroy it: so the function is held by a pointer
// that takes the GIL to let go.
std::shared_ptr<PreTokenizer> callback(const py::function& find) {
    const std::shared_ptr<py::function> held(new py::function(find), [](py::function* function) {
        const py::gil_scoped_acquire gil;
        delete function;
    });
    return std::make_shared<Callback>([held](std::string_view text) {
        const py::gil_scoped_acquire gil;
        try {
            return (*held)(py::str(text.data(), text.size()))
                .cast<std::vector<std::pair<std::int64_t, std::int64_t>>>();
        } catch (const py::error_already_set& error) {
            throw std::runtime_error(error.what());
        } catch (const py::cast_error&) {
            throw std::invalid_argument("a function that finds matches returns pairs of positions");
        }
    });
}

std::string raw(const py::bytes& bytes) { return std::string(std::string_view(bytes)); }

// Makes a part. To Python every part is a Normaliser or a PreTokenizer: pybind11 would compile more
// code for a class of each.
template <class Part, class... Arguments>
std::shared_ptr<Normaliser> normaliser(Arguments... arguments) {
    return std::make_shared<Part>(std::move(arguments)...);
}
template <class Part, class... Arguments>
std::shared_ptr<PreTokenizer> pretokenizer(Arguments... arguments) {
    return std::make_shared<Part>(std::move(arguments)...);
}

void bind_normalisers(py::module_& module) {
    module.def("NormalForm",
               [](const std::string& form) { return normaliser<NormalForm>(form_named(form)); });
    module.def("LowerCase", &normaliser<LowerCase>);
    module.def("Drop",
               [](const std::string& classes) { return normaliser<Drop>(classes_named(classes)); });
    module.def("BertNormaliser", &normaliser<BertNormaliser, bool, bool, bool, bool>, py::kw_only(),
               py::arg("clean"), py::arg("chinese"), py::arg("accents"), py::arg("lower"));
    module.def("Strip", &normaliser<Strip, bool, bool>, py::kw_only(), py::arg("left"),
               py::arg("right"));
    module.def("Replace", [](std::shared_ptr<PreTokenizer> matches, const py::bytes& content) {
        return normaliser<Replace>(std::move(matches), raw(content));
    });
    module.def(
        "Prepend",
        [](const py::bytes& content, const py::bytes& unless, bool first) {
            return normaliser<Prepend>(raw(content), raw(unless), first);
        },
        py::arg("content"), py::kw_only(), py::arg("unless") = py::bytes(),
        py::arg("first") = false);
    module.def("Nmt", &normaliser<Nmt>);
    module.def(
        "Precompiled",
        [](const py::bytes& charsmap, bool longest) {
            return normaliser<Precompiled>(raw(charsmap), longest);
        },
        py::arg("charsmap"), py::kw_only(), py::arg("longest"));
    module.def("PerWord", &normaliser<PerWord, PreTokenizers, Normalisers>);
}

void bind_pretokenizers(py::module_& module) {
    module.def("Literal", [](const py::bytes& bytes) { return pretokenizer<Literal>(raw(bytes)); });
    module.def(
        "Characters",
        [](const std::string& classes, std::int64_t least) {
            return pretokenizer<Characters>(classes_named(classes), least);
        },
        py::arg("classes"), py::arg("least") = 0);
    module.def("Ends", &pretokenizer<Ends, std::vector<std::string>, bool>, py::arg("characters"),
               py::kw_only(), py::arg("at_start"));
    module.def("Repeats", [](const py::bytes& character, std::int64_t least) {
        return pretokenizer<Repeats>(raw(character), least);
    });
    module.def("WordRuns", &pretokenizer<WordRuns>);
    module.def("BertWords", &pretokenizer<BertWords>);
    module.def("FixedLength", &pretokenizer<FixedLength, std::int64_t>);
    module.def("Separator", &pretokenizer<Separator>);
    module.def(
        "Split",
        [](std::shared_ptr<PreTokenizer> matches, const std::string& behaviour, bool invert) {
            return pretokenizer<Split>(std::move(matches), behaviour_named(behaviour), invert);
        },
        py::arg("matches"), py::arg("behaviour"), py::arg("invert") = false);
    module.def("named_pattern", &named_pattern);
    module.def("callback", &callback);
}

}  // namespace

void bind_unicode(py::module_& module) {
    bind_normalisers(module);
    bind_pretokenizers(module);
    module.def(
        "normalise",
        [](const Normalisers& normalisers, const py::bytes& bytes, bool track) -> py::tuple {
            Text text{std::string_view(bytes), track};
            {
                const py::gil_scoped_release release;
                for (const auto& normaliser : normalisers) normaliser->apply(text);
            }
            if (!track) return py::make_tuple(py::bytes(text.bytes), py::none());
            return py::make_tuple(py::bytes(text.bytes), array_of(text.origin));
        },
        py::arg("normalisers"), py::arg("text"), py::arg("track") = false);
    module.def("split", [](const PreTokenizers& pretokenizers, const py::bytes& bytes) {
        std::vector<Span> words;
        const std::string_view text(bytes);
        {
            const py::gil_scoped_release release;
            split_all(pretokenizers, text, words);
        }
        return array_of(words);
    });
    module.def("nmt_nfkc_charsmap", [] { return py::bytes(nmt_nfkc_charsmap()); });
}

}  // namespace byhand::text
