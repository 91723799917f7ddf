// Runs kernels written in plain CUDA C on a CPU, one block after another: include this, then the .cu file, and compile
// as C++. It shows what a kernel computes, reads and writes, never how fast it is.
//
// Every thread of a block is a fiber with a stack of its own. A fiber runs until it comes to a barrier or a shuffle;
// when all have come to it, all go on. A barrier that a part of the block never reaches, or two parts at two different
// ones, is a fault, as on a GPU. Fibers take their turns forward, in reverse or shuffled, blocks too: what depends on
// that order has a race. Shared memory is all NaN when a block begins.
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <xmmintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <type_traits>
#include <utility>
#include <vector>

struct uint3 {
    unsigned x, y, z;
};
static uint3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__ static
#define __restrict__ __restrict
#define __shared__ static __attribute__((section("cuda_shared")))
#define __syncthreads() emulation::wait(emulation::AT_BARRIER, __LINE__)

extern char __start_cuda_shared[] __attribute__((weak));
extern char __stop_cuda_shared[] __attribute__((weak));

namespace emulation {

enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };
enum Order { FORWARD, REVERSE, SHUFFLED };

struct Fiber {
    jmp_buf here;
    ucontext_t first;
    bool begun = false;
    uint3 index;
    State state;
    int line;       // of the barrier where it waits
    uint64_t slot;  // what it offers to the other threads of its warp
};

static const size_t STACK = 64 << 10;
static const int WARP = 32;
static std::deque<Fiber> fibers;
static int current, threads;
static jmp_buf scheduler;
static const char* fault;
static void (*kernel)(void*);
static void* kernel_arguments;
static Order order;
static uint64_t random_state;

static void back_to_scheduler() {
    if (!_setjmp(fibers[current].here)) _longjmp(scheduler, 1);
}

static void wait(State state, int line) {
    fibers[current].state = state;
    fibers[current].line = line;
    back_to_scheduler();
}

static void life_of_a_fiber() {  // one thread after another, for its stack is kept
    for (;;) {
        kernel(kernel_arguments);
        fibers[current].state = DONE;
        back_to_scheduler();
    }
}

static void run(int i) {
    current = i;
    threadIdx = fibers[i].index;
    if (_setjmp(scheduler)) return;
    Fiber& fiber = fibers[i];
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = std::malloc(STACK);
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, life_of_a_fiber, 0);
    setcontext(&fiber.first);
}

static void arrange(std::vector<int>& turns) {
    const size_t n = turns.size();
    if (order == REVERSE)
        for (size_t i = 0; i < n / 2; ++i) std::swap(turns[i], turns[n - 1 - i]);
    if (order == SHUFFLED)
        for (size_t i = n; i > 1; --i) {
            random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
            std::swap(turns[i - 1], turns[(random_state >> 33) % i]);
        }
}

// Whether all of [begin, end) wait in that state, at one line. `some` says whether any of them does.
static bool all_wait(State state, int begin, int end, bool& some) {
    int count = 0, line = 0;
    bool together = true;
    for (int i = begin; i < end; ++i)
        if (fibers[i].state == state) {
            if (count++ && fibers[i].line != line) together = false;
            line = fibers[i].line;
        }
    some = count > 0;
    return together && count == end - begin;
}

static void release(int begin, int end) {
    for (int i = begin; i < end; ++i) fibers[i].state = READY;
}

static void run_block() {
    for (;;) {
        std::vector<int> turns;
        for (int i = 0; i < threads; ++i)
            if (fibers[i].state == READY) turns.push_back(i);
        arrange(turns);
        for (int i : turns) run(i);
        bool some, went_on = false;
        for (int warp = 0; warp < threads; warp += WARP) {
            const int end = warp + WARP < threads ? warp + WARP : threads;
            if (all_wait(AT_SHUFFLE, warp, end, some)) {
                release(warp, end);
                went_on = true;
            } else if (some) {
                fault = "a full-mask shuffle that not the whole warp reaches";
                return;
            }
        }
        if (went_on) continue;
        if (all_wait(AT_BARRIER, 0, threads, some)) {
            release(0, threads);
        } else {
            if (some) fault = "a __syncthreads that not the whole block reaches";
            return;
        }
    }
}

template <class T>
static T shuffle(T v, int lane) {
    const int me = current, warp = me / WARP * WARP;
    std::memcpy(&fibers[me].slot, &v, sizeof v);
    wait(AT_SHUFFLE, -1);
    if (lane < WARP && warp + lane < threads) std::memcpy(&v, &fibers[warp + lane].slot, sizeof v);
    wait(AT_SHUFFLE, -2);
    return v;
}

template <class... A>
struct Call {
    void (*function)(A...);
    void** arguments;
    template <size_t... I>
    void with(std::index_sequence<I...>) { function(*static_cast<A*>(arguments[I])...); }
    static void run(void* self) { static_cast<Call*>(self)->with(std::index_sequence_for<A...>{}); }
};

// Runs the kernel; returns null or the fault. Without barriers and shuffles no fibers are needed: plain loops.
template <class... A>
static const char* launch(void (*function)(A...), const unsigned* grid, const unsigned* block, void** arguments,
                          int needs_fibers, int in_order, uint64_t seed) {
    Call<A...> call{function, arguments};
    kernel = Call<A...>::run;
    kernel_arguments = &call;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    threads = block[0] * block[1] * block[2];
    order = static_cast<Order>(in_order);
    random_state = seed;
    fault = nullptr;
    while (needs_fibers && static_cast<int>(fibers.size()) < threads) fibers.emplace_back();
    const unsigned rounding = _mm_getcsr();
    _mm_setcsr(rounding | 0x8040);  // denormals count as 0, as in what CuPy compiles (-ftz=true)
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned turn = 0; turn < blocks && !fault; ++turn) {
        const unsigned b = order == FORWARD ? turn : blocks - 1 - turn;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (__start_cuda_shared) std::memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
        for (int i = 0; i < threads; ++i) {
            const unsigned t = i;
            threadIdx = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
            if (needs_fibers) {
                fibers[i].index = threadIdx;
                fibers[i].state = READY;
            } else {
                kernel(kernel_arguments);
            }
        }
        if (needs_fibers) run_block();
    }
    _mm_setcsr(rounding);
    if (fault) fibers.clear();  // half-way through a kernel: not to be used again
    return fault;
}

// A letter for each parameter: f, d, i, l for float, double, 4 and 8 bytes of integer; pointers in capitals, B: bytes.
template <class T>
static char letter() {
    if (std::is_same<T, float>::value) return 'f';
    if (std::is_same<T, double>::value) return 'd';
    if (!std::is_integral<T>::value) return '?';
    return sizeof(T) == 8 ? 'l' : sizeof(T) == 4 ? 'i' : 'b';
}
template <class T>
static char parameter() {
    using Pointed = typename std::remove_const<typename std::remove_pointer<T>::type>::type;
    return std::is_pointer<T>::value ? letter<Pointed>() - 'a' + 'A' : letter<T>();
}
template <class... A>
static void signature(void (*)(A...), char* out) {
    const char letters[] = {parameter<A>()..., 0};
    std::memcpy(out, letters, sizeof letters);
}

}  // namespace emulation

template <class T>
static T __shfl_down_sync(unsigned, T v, int distance) {
    return emulation::shuffle(v, emulation::current % emulation::WARP + distance);
}
static inline int min(int a, int b) { return a < b ? a : b; }
using std::exp;
using std::fabs;
using std::log1p;
using std::sqrt;
