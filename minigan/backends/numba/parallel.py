"""Distribute the tasks of compiled loops over threads: `in_parallel(tasks, body, arguments)`.

    @njit(**INNER)                                      @njit(**COMPILED)
    def piece(task, x, y):                              def double(x, y):
        part = slice(task * 100, (task + 1) * 100)          in_parallel((x.size + 99) // 100, piece, (x, y))
        y[part] = 2 * x[part]

Here `double` calls piece(0, x, y), piece(1, x, y), ... and distributes these calls over the threads. `in_parallel`
works like `prange`, and all loops use the same `prange`, which is in `share_tasks` below. If each loop has its own
`prange`, as is usual, Numba generates and compiles for each of them a second function that unpacks the arrays. This
took longer than all the rest of the compilation.

Implementation: the arguments are stored in one structure in memory. `in_parallel` adds a function (address of the
arguments, task) to the LLVM module of the caller. This function loads the arguments and calls the body. `share_tasks`
gets the addresses of the function and of the arguments.
"""

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.ir.values import ArgumentAttributes
from numba import get_num_threads, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minigan.backends import numba as package
from minigan.backends.subnormals import FTZ_DAZ, FZ

# x / 0 raises no exception, so loops need no test for a zero divisor
PLAIN: dict[str, Any] = dict(error_model="numpy", no_cfunc_wrapper=True)
COMPILED: dict[str, Any] = PLAIN | dict(cache=package.cached)
INNER: dict[str, Any] = PLAIN | dict(no_cpython_wrapper=True)  # called from compiled code only

LINE = 8  # 8-byte numbers in a cache line; threads that write to the same line wait for each other
ADDRESS = ir.IntType(64)
TASK = ir.FunctionType(ir.VoidType(), [ADDRESS, ADDRESS])  # (address of the arguments, number of the task)
WORD = ir.IntType(32)
MACHINE, X86, ARM = platform.machine(), ("x86_64", "AMD64"), ("aarch64", "arm64", "ARM64")
FLUSH = {**dict.fromkeys(X86, FTZ_DAZ), **dict.fromkeys(ARM, FZ)}.get(MACHINE, 0)

# Starts the threads. Loading a cached function with a `prange` starts them too, but loading its callers does not.
get_num_threads()


@intrinsic
def in_parallel(typing_context, tasks, body, arguments):
    """Call body(task, *arguments) for each task in 0 ... tasks - 1 on all threads, and return when all are done.

    The order of the tasks is arbitrary. body is a compiled function whose result is ignored. An array that a task
    writes to must not share memory with the other arguments: the compiler relies on this and does not reload what it
    has read from them after each write.

    Raises MemoryError if a task fails. Allocation is the only thing that can fail, because loops compiled with INNER
    raise no exceptions.
    """
    body_signature = body.get_call_type(typing_context, (types.int64, *arguments.types), {})
    sharing = typing_context.resolve_value_type(share_tasks)
    sharing_signature = sharing.get_call_type(typing_context, (types.int64,) * 3, {})

    def codegen(context, builder, signature, values):
        count, _, packed = values
        shared = cgutils.pack_struct(builder, [cgutils.false_byte, packed])  # (whether a task failed, the arguments)
        shared = cgutils.alloca_once_value(builder, shared)

        # the function (address of `shared`, task), whose address the caller passes to `share_tasks`
        task = ir.Function(builder.module, TASK, builder.module.get_unique_name("task"))
        task.linkage = "internal"
        inside = ir.IRBuilder(task.append_basic_block())
        shared_inside = inside.inttoptr(task.args[0], shared.type)
        failed, packed = (cgutils.gep_inbounds(inside, shared_inside, 0, field) for field in (0, 1))
        unpacked = cgutils.unpack_tuple(inside, inside.load(packed), len(arguments.types))
        unpacked = [without_refcount(context, inside, *pair) for pair in zip(arguments.types, unpacked, strict=True)]
        compiled = body.dispatcher.overloads[body_signature.args]
        context.add_linking_libs([compiled.library])
        status, _ = context.call_conv.call_function(
            inside, context.declare_function(builder.module, compiled.fndesc),
            body_signature.return_type, body_signature.args, [task.args[1], *unpacked], attrs=("alwaysinline",),
        )  # fmt: skip
        for i, argument in enumerate(status.code.args):
            if isinstance(argument.type, ir.PointerType):
                status.code.arg_attributes[i] = ArgumentAttributes(("noalias",))
        with inside.if_then(status.is_error, likely=False):
            inside.store(cgutils.true_byte, failed)
        inside.ret_void()

        # the code of the caller
        share = context.get_function(sharing, sharing_signature)
        context.add_linking_libs(share.libs)
        count = context.cast(builder, count, signature.args[0], types.int64)
        share(builder, [builder.ptrtoint(task, ADDRESS), builder.ptrtoint(shared, ADDRESS), count])
        failed = builder.load(cgutils.gep_inbounds(builder, shared, 0, 0))
        with builder.if_then(cgutils.is_true(builder, failed), likely=False):
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for the buffers of a compiled loop",))
        return context.get_dummy_value()

    return types.void(tasks, body, arguments), codegen


def without_refcount(context, builder, kind, value):
    """Return an array, or a tuple of arrays, without reference counters.

    The caller keeps the arrays alive. With a counter, every slice would increment and decrement it, and threads would
    wait for each other at every row.
    """
    if isinstance(kind, types.BaseTuple):
        for i, field in enumerate(kind.types):
            part = without_refcount(context, builder, field, builder.extract_value(value, i))
            value = builder.insert_value(value, part, i)
        return value
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo, array.parent = cgutils.get_null_value(array.meminfo.type), cgutils.get_null_value(array.parent.type)
    return array._getvalue()


@njit(parallel=True, **COMPILED)
def share_tasks(function, arguments, tasks):
    """Distribute the tasks over all threads.

    Each thread starts with its own range of tasks. The range is the same in every loop, so that part of its data may
    still be in the cache of the thread. Then the thread takes the remaining tasks from the ranges of other threads,
    because another thread may have been delayed.

    Each thread treats subnormal numbers as zero during its tasks, and then gets back its mode. A new thread inherits
    the mode of the thread that starts it, so the calling thread leaves this mode before the `prange`.
    """
    threads = number_of_threads()
    next_task = np.empty(threads * LINE, np.int64)
    for owner in range(threads):
        next_task[owner * LINE] = owner * tasks // threads
    callers = control_word()
    set_control_word(callers & ~FLUSH)
    for thread in prange(threads):
        own = control_word()
        set_control_word(own | FLUSH)
        for turn in range(threads):
            owner = (thread + turn) % threads
            last = (owner + 1) * tasks // threads
            task = fetch_add(next_task, owner * LINE)
            while task < last:
                call_task(function, arguments, task)
                task = fetch_add(next_task, owner * LINE)
        set_control_word(own)
    set_control_word(callers)


@intrinsic
def control_word(typing_context):
    """Return the control word of the calling thread: mxcsr on x86, fpcr on ARM, and 0 on other processors."""

    def codegen(context, builder, signature, values):
        if MACHINE in X86:
            word = cgutils.alloca_once(builder, WORD)
            builder.call(mxcsr_function(builder, "stmxcsr"), [builder.bitcast(word, cgutils.voidptr_t)])
            return builder.zext(builder.load(word), ADDRESS)
        if MACHINE in ARM:
            return builder.asm(ir.FunctionType(ADDRESS, []), "mrs $0, fpcr", "=r", [], side_effect=True)
        return ir.Constant(ADDRESS, 0)

    return types.int64(), codegen


@intrinsic
def set_control_word(typing_context, word):
    """Set the control word of the calling thread. The compiler may move arithmetic over this call, but no calls."""

    def codegen(context, builder, signature, values):
        new = context.cast(builder, values[0], signature.args[0], types.int64)
        if MACHINE in X86:
            word = cgutils.alloca_once_value(builder, builder.trunc(new, WORD))
            builder.call(mxcsr_function(builder, "ldmxcsr"), [builder.bitcast(word, cgutils.voidptr_t)])
        elif MACHINE in ARM:
            builder.asm(ir.FunctionType(ir.VoidType(), [ADDRESS]), "msr fpcr, $0", "r", [new], side_effect=True)
        return context.get_dummy_value()

    return types.void(word), codegen


def mxcsr_function(builder, name):
    """Return LLVM's function `stmxcsr` or `ldmxcsr`, which takes the address of the word."""
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}")


@intrinsic
def number_of_threads(typing_context):
    """Call numba.get_num_threads() by its C symbol, as a `prange` does, so that the caller can be cached on disk."""

    def codegen(context, builder, signature, values):
        kind = ir.FunctionType(ADDRESS, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "get_num_threads"), [])

    return types.int64(), codegen


@intrinsic
def fetch_add(typing_context, numbers, i):
    """Return numbers[i] and increment it by one, in one atomic operation."""

    def codegen(context, builder, signature, values):
        kinds = signature.args
        first = context.make_array(kinds[0])(context, builder, values[0]).data
        address = builder.gep(first, [context.cast(builder, values[1], kinds[1], types.int64)])
        return builder.atomic_rmw("add", address, ir.Constant(ADDRESS, 1), "monotonic")

    return types.int64(numbers, i), codegen


@intrinsic
def call_task(typing_context, function, arguments, task):
    """Call the function of type TASK at the address `function`."""

    def codegen(context, builder, signature, values):
        function, *numbers = (
            context.cast(builder, value, kind, types.int64) for value, kind in zip(values, signature.args, strict=True)
        )
        builder.call(builder.inttoptr(function, TASK.as_pointer()), numbers)
        return context.get_dummy_value()

    return types.void(function, arguments, task), codegen
