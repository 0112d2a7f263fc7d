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

void bind_normalisers(py::module_& module) {
    const auto name = [&](auto* type, const char* called) {
        using Type = std::remove_pointer_t<decltype(type)>;
        return py::class_<Type, Normaliser, std::shared_ptr<Type>>(module, called);
    };
    name(static_cast<NormalForm*>(nullptr), "NormalForm").def(py::init([](const std::string& form) {
        return NormalForm(form_named(form));
    }));
    name(static_cast<LowerCase*>(nullptr), "LowerCase").def(py::init<>());
    name(static_cast<Drop*>(nullptr), "Drop").def(py::init([](const std::string& classes) {
        return Drop(classes_named(classes));
    }));
    name(static_cast<BertNormaliser*>(nullptr), "BertNormaliser")
        .def(py::init<bool, bool, bool, bool>(), py::kw_only(), py::arg("clean"),
             py::arg("chinese"), py::arg("accents"), py::arg("lower"));
    name(static_cast<Strip*>(nullptr), "Strip")
        .def(py::init<bool, bool>(), py::kw_only(), py::arg("left"), py::arg("right"));
    name(static_cast<Replace*>(nullptr), "Replace")
        .def(py::init([](std::shared_ptr<PreTokenizer> matches, const py::bytes& content) {
            return Replace(std::move(matches), raw(content));
        }));
    name(static_cast<Prepend*>(nullptr), "Prepend")
        .def(py::init([](const py::bytes& content, const py::bytes& unless, bool first) {
                 return Prepend(raw(content), raw(unless), first);
             }),
             py::arg("content"), py::kw_only(), py::arg("unless") = py::bytes(),
             py::arg("first") = false);
    name(static_cast<Nmt*>(nullptr), "Nmt").def(py::init<>());
    name(static_cast<Precompiled*>(nullptr), "Precompiled")
        .def(py::init([](const py::bytes& charsmap, bool longest) {
                 return Precompiled(raw(charsmap), longest);
             }),
             py::arg("charsmap"), py::kw_only(), py::arg("longest"));
    name(static_cast<PerWord*>(nullptr), "PerWord").def(py::init<PreTokenizers, Normalisers>());
}

void bind_pretokenizers(py::module_& module) {
    const auto name = [&](auto* type, const char* called) {
        using Type = std::remove_pointer_t<decltype(type)>;
        return py::class_<Type, PreTokenizer, std::shared_ptr<Type>>(module, called);
    };
    name(static_cast<Literal*>(nullptr), "Literal").def(py::init([](const py::bytes& bytes) {
        return Literal(raw(bytes));
    }));
    name(static_cast<Characters*>(nullptr), "Characters")
        .def(py::init([](const std::string& classes, std::int64_t least) {
                 return Characters(classes_named(classes), least);
             }),
             py::arg("classes"), py::arg("least") = 0);
    name(static_cast<Repeats*>(nullptr), "Repeats")
        .def(py::init([](const py::bytes& character, std::int64_t least) {
            return Repeats(raw(character), least);
        }));
    name(static_cast<WordRuns*>(nullptr), "WordRuns").def(py::init<>());
    name(static_cast<BertWords*>(nullptr), "BertWords").def(py::init<>());
    name(static_cast<FixedLength*>(nullptr), "FixedLength").def(py::init<std::int64_t>());
    name(static_cast<Separator*>(nullptr), "Separator").def(py::init<>());
    name(static_cast<Split*>(nullptr), "Split")
        .def(py::init([](std::shared_ptr<PreTokenizer> matches, const std::string& behaviour,
                         bool invert) {
                 return Split(std::move(matches), behaviour_named(behaviour), invert);
             }),
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
