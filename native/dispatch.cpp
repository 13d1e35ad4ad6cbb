#include "dispatch.h"

#include <atomic>
#include <stdexcept>

#if defined(CIERZO_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace cierzo {

namespace portable {
extern const Kernels kernel_table;
}
#if defined(CIERZO_X86)
namespace avx2 {
extern const Kernels kernel_table;
}
namespace avx512 {
extern const Kernels kernel_table;
}
namespace amx {
extern const Kernels kernel_table;
}
#endif

namespace {

struct Choice {
    const char* name;
    const Kernels* table;
};

#if defined(CIERZO_X86)

// Linux hands out the 8 KB tile registers only to processes that ask.
bool request_amx_permission() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kArchReqXcompPerm = 0x1023;
    constexpr int kXfeatureXtiledata = 18;
    return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
#else
    return false;
#endif
}

// Returns 0 portable, 1 avx2, 2 avx512, 3 amx: processor and operating system both willing.
int detect_level() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const auto bit = [](unsigned value, int index) { return (value >> index & 1u) != 0; };
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const bool osxsave = bit(c, 27), fma = bit(c, 12), f16c = bit(c, 29);
    if (!osxsave || !fma || !f16c) return 0;
    unsigned xcr0 = 0, xcr0_high = 0;
    asm volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const bool avx2 = bit(b, 5) && bit(b, 8) && (xcr0 & 0x6u) == 0x6u;
    if (!avx2) return 0;
    const bool avx512 = bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31) && bit(c, 11) &&
                        (xcr0 & 0xe6u) == 0xe6u;
    if (!avx512) return 1;
    const bool amx = bit(d, 22) && bit(d, 24) && bit(d, 25) && (xcr0 & 0x60000u) == 0x60000u;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return 2;
    const bool avx512_bf16 = bit(a, 5);
    return amx && avx512_bf16 && request_amx_permission() ? 3 : 2;
}

#endif

std::vector<Choice> detect_choices() {
    std::vector<Choice> found = {{"portable", &portable::kernel_table}};
#if defined(CIERZO_X86)
    const int level = detect_level();
    if (level >= 1) found.push_back({"avx2", &avx2::kernel_table});
    if (level >= 2) found.push_back({"avx512", &avx512::kernel_table});
    if (level >= 3) found.push_back({"amx", &amx::kernel_table});
#endif
    return found;
}

const std::vector<Choice>& choices() {
    static const std::vector<Choice> found = detect_choices();
    return found;
}

std::atomic<const Choice*>& active() {
    static std::atomic<const Choice*> choice{&choices().back()};
    return choice;
}

}  // namespace

const Kernels& kernels() {
    return *active().load(std::memory_order_acquire)->table;
}

std::string isa() {
    return active().load(std::memory_order_acquire)->name;
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Choice& choice : choices()) names.emplace_back(choice.name);
    return names;
}

void set_isa(const std::string& name) {
    std::string known;
    for (const Choice& choice : choices()) {
        if (name == choice.name) {
            active().store(&choice, std::memory_order_release);
            return;
        }
        known += (known.empty() ? "" : ", ") + std::string(choice.name);
    }
    throw std::invalid_argument("set_isa: this machine has " + known + "; got '" + name + "'");
}

}  // namespace cierzo
