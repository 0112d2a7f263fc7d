// What stands at the beginning or the end of a text: SentencePiece takes spaces away there.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "text/text.h"

namespace py = pybind11;

namespace byhand::text {
namespace {

// The longest run of some characters at one end of a text: \A[ab]+ or [ab]+\z.
class Ends : public PreTokenizer {
  public:
    Ends(std::vector<std::string> characters, bool at_start)
        : characters_(std::move(characters)), at_start_(at_start) {}

    void split(std::string_view text, Span piece, std::vector<Span>& words) const override {
        std::string_view rest = text.substr(static_cast<std::size_t>(piece.begin),
                                            static_cast<std::size_t>(piece.end - piece.begin));
        const std::size_t whole = rest.size();
        while (const std::size_t size = at_end(rest)) {
            at_start_ ? rest.remove_prefix(size) : rest.remove_suffix(size);
        }
        const auto run = static_cast<std::int64_t>(whole - rest.size());
        if (run == 0) return;
        words.push_back(at_start_ ? Span{piece.begin, piece.begin + run}
                                  : Span{piece.end - run, piece.end});
    }

  private:
    // The bytes of the first or last character of `text`, if it is one of them; else 0.
    std::size_t at_end(std::string_view text) const {
        for (const std::string& character : characters_) {
            const std::size_t size = character.size();
            if (size == 0 || size > text.size()) continue;
            const std::size_t begin = at_start_ ? 0 : text.size() - size;
            if (text.substr(begin, size) == character) return size;
        }
        return 0;
    }

    std::vector<std::string> characters_;
    bool at_start_;
};

}  // namespace

void bind_ends(py::module_& module) {
    py::class_<Ends, PreTokenizer, std::shared_ptr<Ends>>(module, "Ends")
        .def(py::init<std::vector<std::string>, bool>(), py::arg("characters"), py::kw_only(),
             py::arg("at_start"));
}

}  // namespace byhand::text
