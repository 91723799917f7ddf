"""How compiled loops share their work among threads: `in_parallel(tasks, body, arguments)`.

    @njit(**INNER)                                      @njit(**COMPILED)
    def piece(task, x, y):                              def double(x, y):
        part = slice(task * 100, (task + 1) * 100)          in_parallel((x.size + 99) // 100, piece, (x, y))
        y[part] = 2 * x[part]

calls piece(0, x, y), piece(1, x, y), ... and every thread has its share of them. It does what `prange` does, and by it:
there is one `prange`, below, which serves all loops. With one in each, as is usual, Numba makes and compiles for each
loop a second function that unpacks its arrays; that took longer than all the rest of the compilation.

The way there: the arguments lie side by side in memory; a function (address of arguments, task) that takes them from
there and calls the body is added to the caller's module; the `prange` gets its address and theirs.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.ir.values import ArgumentAttributes
from numba import get_num_threads, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

# x / 0 is no exception, which every loop would look for
PLAIN: dict[str, Any] = dict(error_model="numpy", no_cfunc_wrapper=True)
COMPILED: dict[str, Any] = PLAIN | dict(cache=True)
INNER: dict[str, Any] = PLAIN | dict(no_cpython_wrapper=True)  # called by compiled code alone

LINE = 8  # numbers of 8 bytes in a cache line: threads that write to the same line wait for one another
ADDRESS = ir.IntType(64)
TASK = ir.FunctionType(ir.VoidType(), [ADDRESS, ADDRESS])  # (address of the arguments, number of the task)

get_num_threads()  # starts them; a function read from disk with a `prange` in it would, but its callers do not


@intrinsic
def in_parallel(typing_context, tasks, body, arguments):
    """body(task, *arguments) for each task of 0 ... tasks - 1, in any order, by all threads; returns after the last.

    body is a compiled function whose result is dropped. An array among the arguments that a task writes to shares no
    memory with the others: what is read from these need not be read again after each number written to that one.
    Raises MemoryError if a task fails. Allocation is the only thing that can fail, because loops compiled with INNER
    raise nothing of their own.
    """
    body_signature = body.get_call_type(typing_context, (types.int64, *arguments.types), {})
    sharing = typing_context.resolve_value_type(share_tasks)
    sharing_signature = sharing.get_call_type(typing_context, (types.int64,) * 3, {})

    def codegen(context, builder, signature, values):
        count, _, packed = values
        shared = cgutils.pack_struct(builder, [cgutils.false_byte, packed])  # has a task failed?; the arguments
        shared = cgutils.alloca_once_value(builder, shared)

        # the function (address of `shared`, task), which the caller does not call but hands on
        task = ir.Function(builder.module, TASK, builder.module.get_unique_name("task"))
        task.linkage = "internal"
        inside = ir.IRBuilder(task.append_basic_block())
        shared_there = inside.inttoptr(task.args[0], shared.type)
        failed, packed = (cgutils.gep_inbounds(inside, shared_there, 0, field) for field in (0, 1))
        unpacked = cgutils.unpack_tuple(inside, inside.load(packed), len(arguments.types))
        unpacked = [borrowed(context, inside, *pair) for pair in zip(arguments.types, unpacked, strict=True)]
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

        # and the caller again
        share = context.get_function(sharing, sharing_signature)
        context.add_linking_libs(share.libs)
        count = context.cast(builder, count, signature.args[0], types.int64)
        share(builder, [builder.ptrtoint(task, ADDRESS), builder.ptrtoint(shared, ADDRESS), count])
        failed = builder.load(cgutils.gep_inbounds(builder, shared, 0, 0))
        with builder.if_then(cgutils.is_true(builder, failed), likely=False):
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for the buffers of a compiled loop",))
        return context.get_dummy_value()

    return types.void(tasks, body, arguments), codegen


def borrowed(context, builder, kind, value):
    """An array, or each array of a tuple, without its counter of references, which the caller holds: each slice of it
    counts up and down there, and threads would wait for one another at every row."""
    if isinstance(kind, types.BaseTuple):
        for i, field in enumerate(kind.types):
            part = borrowed(context, builder, field, builder.extract_value(value, i))
            value = builder.insert_value(value, part, i)
        return value
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo, array.parent = cgutils.get_null_value(array.meminfo.type), cgutils.get_null_value(array.parent.type)
    return array._getvalue()


@njit(parallel=True, **COMPILED)
def share_tasks(function, arguments, tasks):
    """Each thread begins with a share of its own, the same in every loop, part of whose data may still be in its cache;
    and goes on with what is left of the others', for one of them may have been held up."""
    threads = number_of_threads()
    taken = np.empty(threads * LINE, np.int64)
    for owner in range(threads):
        taken[owner * LINE] = owner * tasks // threads
    for thread in prange(threads):
        for turn in range(threads):
            owner = (thread + turn) % threads
            last = (owner + 1) * tasks // threads
            task = take(taken, owner * LINE)
            while task < last:
                call(function, arguments, task)
                task = take(taken, owner * LINE)


@intrinsic
def number_of_threads(typing_context):
    """numba.get_num_threads(), by the name under which a `prange` calls it: only so can the caller be kept on disk."""

    def codegen(context, builder, signature, values):
        kind = ir.FunctionType(ADDRESS, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "get_num_threads"), [])

    return types.int64(), codegen


@intrinsic
def take(typing_context, numbers, i):
    """numbers[i], and then one more there, which no other thread can come between."""

    def codegen(context, builder, signature, values):
        kinds = signature.args
        first = context.make_array(kinds[0])(context, builder, values[0]).data
        there = builder.gep(first, [context.cast(builder, values[1], kinds[1], types.int64)])
        return builder.atomic_rmw("add", there, ir.Constant(ADDRESS, 1), "monotonic")

    return types.int64(numbers, i), codegen


@intrinsic
def call(typing_context, function, arguments, task):
    """Calls the TASK at the address `function`."""

    def codegen(context, builder, signature, values):
        function, *numbers = (
            context.cast(builder, value, kind, types.int64) for value, kind in zip(values, signature.args, strict=True)
        )
        builder.call(builder.inttoptr(function, TASK.as_pointer()), numbers)
        return context.get_dummy_value()

    return types.void(function, arguments, task), codegen
