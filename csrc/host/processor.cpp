#include "host/processor.h"

#include <stdlib.h>
#include <string.h>

namespace byhand {

#define BYHAND_AVX2 "avx2 fma"
#define BYHAND_AVX512 BYHAND_AVX2 " avx512f avx512bw avx512dq avx512vl"

#if defined(__x86_64__) || defined(__i386__)
#define BYHAND_EACH_FEATURE(use)                                                                   \
    use("sse4.2") use("avx") use("avx2") use("fma") use("avx512f") use("avx512bw") use("avx512dq") \
        use("avx512vl") use("avx512bf16") use("avx512vnni")
const Backend kBackends[] = {
    {"cpu_base", "", "SSE2"},
    {"cpu_avx2", BYHAND_AVX2, "AVX2 and FMA"},
    {"cpu_avx512", BYHAND_AVX512, "AVX-512 (F, BW, DQ, VL)"},
    {"cpu_avx512bf16", BYHAND_AVX512 " avx512bf16 avx512vnni",
     "AVX-512 (F, BW, DQ, VL, BF16, VNNI)"},
};
#elif defined(__aarch64__)
#define BYHAND_EACH_FEATURE(use) use("neon")
const Backend kBackends[] = {{"cpu_base", "", "NEON"}, {"cpu_neon", "neon", "NEON"}};
#else
#define BYHAND_EACH_FEATURE(use) use("baseline")
const Backend kBackends[] = {{"cpu_base", "", "its baseline instructions"}};
#endif
const int kBackendCount = sizeof(kBackends) / sizeof(kBackends[0]);

#define BYHAND_NAME(name) name,
const char* const kFeatures[] = {BYHAND_EACH_FEATURE(BYHAND_NAME)};
const int kFeatureCount = sizeof(kFeatures) / sizeof(kFeatures[0]);

namespace {

// Whether `list` contains the `length` characters at `word`, as a word of its own.
bool lists(const char* list, const char* word, size_t length) {
    for (const char* at = list; *at != '\0';) {
        const size_t n = strcspn(at, " ,");
        if (n == length && memcmp(at, word, n) == 0) return true;
        at += n;
        at += strspn(at, " ,");
    }
    return false;
}

bool present(const char* name, size_t length) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    // The builtin accepts string literals only.
#define BYHAND_ASK(known)                                                  \
    if (length == sizeof(known) - 1 && memcmp(name, known, length) == 0) { \
        return __builtin_cpu_supports(known);                              \
    }
    BYHAND_EACH_FEATURE(BYHAND_ASK)
    return false;
#else
    return lists(kFeatures[0], name, length);  // part of the architecture
#endif
}

bool has(const char* name, size_t length) {
    const char* const allowed = getenv("BYHAND_CPU_FEATURES");
    return (allowed == nullptr || lists(allowed, name, length)) && present(name, length);
}

}  // namespace

bool has_feature(const char* name) { return has(name, strlen(name)); }

bool runnable(const Backend& backend) {
    for (const char* at = backend.features; *at != '\0';) {
        const size_t n = strcspn(at, " ");
        if (!has(at, n)) return false;
        at += n;
        at += strspn(at, " ");
    }
    return true;
}

}  // namespace byhand
