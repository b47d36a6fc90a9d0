"""
Where Python talks C: libbpf, the bpf(2) calls that it lacks, and setns(2).

One table of prototypes. Calls that fail raise :class:`OSError` with the kernel's errno, except
those listed as ``RAW``: their return value is theirs to read (a batch that ends says so by ENOENT).
libbpf 1.x is loaded at the first call, so importing this module needs nothing installed.

Source: libbpf 1.1 src/{libbpf,bpf,btf}.h; kernel include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes as c
import errno as errnos
import functools
import os
import platform
from typing import Any

Pointer = c.c_void_p
Size = c.c_size_t
U32 = c.c_uint32
U64 = c.c_uint64
Int = c.c_int
Text = c.c_char_p

_RAW = "raw"
_INT = "negative errno"
_POINTER = "null and errno"

#: name: (how it fails, argument types)
_PROTOTYPES: dict[str, tuple[str, list[Any]]] = {
    "libbpf_set_print": (_RAW, [Pointer]),
    "bpf_object__open_file": (_POINTER, [Text, Pointer]),
    "bpf_object__load": (_INT, [Pointer]),
    "bpf_object__close": (_RAW, [Pointer]),
    "bpf_object__btf": (_POINTER, [Pointer]),
    "bpf_object__next_program": (_RAW, [Pointer, Pointer]),
    "bpf_object__next_map": (_RAW, [Pointer, Pointer]),
    "bpf_program__name": (_RAW, [Pointer]),
    "bpf_program__section_name": (_RAW, [Pointer]),
    "bpf_program__type": (_RAW, [Pointer]),
    "bpf_program__insn_cnt": (_RAW, [Pointer]),
    "bpf_program__fd": (_INT, [Pointer]),
    "bpf_program__set_autoload": (_INT, [Pointer, c.c_bool]),
    "bpf_program__set_log_buf": (_INT, [Pointer, Pointer, Size]),
    "bpf_program__set_log_level": (_INT, [Pointer, U32]),
    "bpf_map__name": (_RAW, [Pointer]),
    "bpf_map__fd": (_INT, [Pointer]),
    "bpf_map__type": (_RAW, [Pointer]),
    "bpf_map__key_size": (_RAW, [Pointer]),
    "bpf_map__value_size": (_RAW, [Pointer]),
    "bpf_map__max_entries": (_RAW, [Pointer]),
    "bpf_map__map_flags": (_RAW, [Pointer]),
    "bpf_map__set_max_entries": (_INT, [Pointer, U32]),
    "bpf_map__reuse_fd": (_INT, [Pointer, Int]),
    "bpf_map__initial_value": (_RAW, [Pointer, Pointer]),
    "bpf_map__set_initial_value": (_INT, [Pointer, Pointer, Size]),
    "btf__raw_data": (_RAW, [Pointer, Pointer]),
    "bpf_map_create": (_INT, [Int, Text, U32, U32, U32, Pointer]),
    "bpf_map_lookup_elem": (_INT, [Int, Pointer, Pointer]),
    "bpf_map_update_elem": (_INT, [Int, Pointer, Pointer, U64]),
    "bpf_map_delete_elem": (_INT, [Int, Pointer]),
    "bpf_map_get_next_key": (_INT, [Int, Pointer, Pointer]),
    "bpf_map_lookup_and_delete_elem": (_INT, [Int, Pointer, Pointer]),
    "bpf_map_lookup_batch": (_RAW, [Int, Pointer, Pointer, Pointer, Pointer, Pointer, Pointer]),
    "bpf_map_lookup_and_delete_batch": (
        _RAW,
        [Int, Pointer, Pointer, Pointer, Pointer, Pointer, Pointer],
    ),
    "bpf_map_update_batch": (_RAW, [Int, Pointer, Pointer, Pointer, Pointer]),
    "bpf_map_delete_batch": (_RAW, [Int, Pointer, Pointer, Pointer]),
    "bpf_btf_load": (_INT, [Pointer, Size, Pointer]),
    "bpf_prog_load": (_INT, [Int, Text, Text, Pointer, Size, Pointer]),
    "bpf_prog_test_run_opts": (_INT, [Int, Pointer]),
    "bpf_prog_query": (_INT, [Int, Int, U32, Pointer, Pointer, Pointer]),
    "bpf_obj_get_info_by_fd": (_INT, [Int, Pointer, Pointer]),
    "bpf_prog_get_fd_by_id": (_INT, [U32]),
    "bpf_prog_get_next_id": (_INT, [U32, Pointer]),
    "bpf_map_get_fd_by_id": (_INT, [U32]),
    "bpf_map_get_next_id": (_INT, [U32, Pointer]),
    "bpf_link_get_next_id": (_INT, [U32, Pointer]),
    "bpf_link_detach": (_INT, [Int]),
    "bpf_obj_get": (_INT, [Text]),
    "bpf_obj_pin": (_INT, [Int, Text]),
    "bpf_xdp_attach": (_INT, [Int, Int, U32, Pointer]),
    "bpf_xdp_query": (_INT, [Int, Int, Pointer]),
    "libbpf_find_vmlinux_btf_id": (_INT, [Text, Int]),
    "bpf_tc_hook_create": (_INT, [Pointer]),
    "bpf_tc_query": (_INT, [Pointer, Pointer]),
    "bpf_tc_attach": (_INT, [Pointer, Pointer]),
    "bpf_tc_detach": (_INT, [Pointer, Pointer]),
    "bpf_link_update": (_INT, [Int, Int, Pointer]),
    "libbpf_num_possible_cpus": (_INT, []),
}

_RESULTS: dict[str, Any] = {
    "libbpf_set_print": Pointer,
    "bpf_object__close": None,
    "bpf_object__next_program": Pointer,
    "bpf_object__next_map": Pointer,
    "bpf_program__name": Text,
    "bpf_program__section_name": Text,
    "bpf_program__insn_cnt": Size,
    "bpf_map__name": Text,
    "bpf_map__key_size": U32,
    "bpf_map__value_size": U32,
    "bpf_map__max_entries": U32,
    "bpf_map__map_flags": U32,
    "bpf_map__initial_value": Pointer,
    "btf__raw_data": Pointer,
}

#: Number of bpf(2) by machine: arch/*/include/generated/uapi/asm/unistd*.h.
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_AT_FDCWD = -100
CLONE_NEWNET = 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522


class TestRunOptions(c.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", Size),
        ("data_in", Pointer),
        ("data_out", Pointer),
        ("data_size_in", U32),
        ("data_size_out", U32),
        ("ctx_in", Pointer),
        ("ctx_out", Pointer),
        ("ctx_size_in", U32),
        ("ctx_size_out", U32),
        ("retval", U32),
        ("repeat", Int),
        ("duration", U32),
        ("flags", U32),
        ("cpu", U32),
        ("batch_size", U32),
    )


class SkBuff(c.Structure):
    """
    struct __sk_buff as far as ``hwtstamp``; what BPF_PROG_TEST_RUN takes of it is ``cb`` and
    tstamp.
    """

    _fields_ = (
        ("len", U32),
        ("pkt_type", U32),
        ("mark", U32),
        ("queue_mapping", U32),
        ("protocol", U32),
        ("vlan_present", U32),
        ("vlan_tci", U32),
        ("vlan_proto", U32),
        ("priority", U32),
        ("ingress_ifindex", U32),
        ("ifindex", U32),
        ("tc_index", U32),
        ("cb", U32 * 5),
        ("hash", U32),
        ("tc_classid", U32),
        ("data", U32),
        ("data_end", U32),
        ("napi_id", U32),
        ("family", U32),
        ("remote_ip4", U32),
        ("local_ip4", U32),
        ("remote_ip6", U32 * 4),
        ("local_ip6", U32 * 4),
        ("remote_port", U32),
        ("local_port", U32),
        ("data_meta", U32),
        ("flow_keys", U64),
        ("tstamp", U64),
        ("wire_len", U32),
        ("gso_segs", U32),
        ("sk", U64),
        ("gso_size", U32),
        ("tstamp_type", c.c_uint8),
        ("_pad", c.c_uint8 * 3),
        ("hwtstamp", U64),
    )


class TcHook(c.Structure):
    """struct bpf_tc_hook."""

    _fields_ = (
        ("sz", Size),
        ("ifindex", Int),
        ("attach_point", Int),
        ("parent", U32),
        ("_pad", U32),
    )


class TcOptions(c.Structure):
    """struct bpf_tc_opts."""

    _fields_ = (
        ("sz", Size),
        ("prog_fd", Int),
        ("flags", U32),
        ("prog_id", U32),
        ("handle", U32),
        ("priority", U32),
        ("_pad", U32),
    )


class MapCreateOptions(c.Structure):
    """struct bpf_map_create_opts as of libbpf 1.1."""

    _fields_ = (
        ("sz", Size),
        ("btf_fd", U32),
        ("btf_key_type_id", U32),
        ("btf_value_type_id", U32),
        ("btf_vmlinux_value_type_id", U32),
        ("inner_map_fd", U32),
        ("map_flags", U32),
        ("map_extra", U64),
        ("numa_node", U32),
        ("map_ifindex", U32),
    )


class ProgramLoadOptions(c.Structure):
    """struct bpf_prog_load_opts as of libbpf 1.1."""

    _fields_ = (
        ("sz", Size),
        ("attempts", Int),
        ("expected_attach_type", U32),
        ("prog_btf_fd", U32),
        ("prog_flags", U32),
        ("prog_ifindex", U32),
        ("kern_version", U32),
        ("attach_btf_id", U32),
        ("attach_prog_fd", U32),
        ("attach_btf_obj_fd", U32),
        ("fd_array", Pointer),
        ("func_info", Pointer),
        ("func_info_cnt", U32),
        ("func_info_rec_size", U32),
        ("line_info", Pointer),
        ("line_info_cnt", U32),
        ("line_info_rec_size", U32),
        ("log_level", U32),
        ("log_size", U32),
        ("log_buf", Pointer),
    )


class LinkInfo(c.Structure):
    """struct bpf_link_info, tcx member."""

    _fields_ = (
        ("type", U32),
        ("id", U32),
        ("prog_id", U32),
        ("_align", U32),
        ("ifindex", U32),
        ("attach_type", U32),
        ("_rest", U64 * 8),
    )


class MapInfo(c.Structure):
    """struct bpf_map_info as far as ``map_extra``."""

    _fields_ = (
        ("type", U32),
        ("id", U32),
        ("key_size", U32),
        ("value_size", U32),
        ("max_entries", U32),
        ("map_flags", U32),
        ("name", c.c_char * 16),
        ("ifindex", U32),
        ("btf_vmlinux_value_type_id", U32),
        ("netns_dev", U64),
        ("netns_ino", U64),
        ("btf_id", U32),
        ("btf_key_type_id", U32),
        ("btf_value_type_id", U32),
        ("_pad", U32),
        ("map_extra", U64),
    )


class ProgramInfo(c.Structure):
    """struct bpf_prog_info as far as ``verified_insns`` (5.16)."""

    _fields_ = (
        ("type", U32),
        ("id", U32),
        ("tag", c.c_uint8 * 8),
        ("jited_prog_len", U32),
        ("xlated_prog_len", U32),
        ("jited_prog_insns", U64),
        ("xlated_prog_insns", U64),
        ("load_time", U64),
        ("created_by_uid", U32),
        ("nr_map_ids", U32),
        ("map_ids", U64),
        ("name", c.c_char * 16),
        ("ifindex", U32),
        ("gpl_compatible", U32, 1),
        ("netns_dev", U64),
        ("netns_ino", U64),
        ("nr_jited_ksyms", U32),
        ("nr_jited_func_lens", U32),
        ("jited_ksyms", U64),
        ("jited_func_lens", U64),
        ("btf_id", U32),
        ("func_info_rec_size", U32),
        ("func_info", U64),
        ("nr_func_info", U32),
        ("nr_line_info", U32),
        ("line_info", U64),
        ("jited_line_info", U64),
        ("nr_jited_line_info", U32),
        ("line_info_rec_size", U32),
        ("jited_line_info_rec_size", U32),
        ("nr_prog_tags", U32),
        ("prog_tags", U64),
        ("run_time_ns", U64),
        ("run_cnt", U64),
        ("recursion_misses", U64),
        ("verified_insns", U32),
        ("attach_btf_obj_id", U32),
        ("attach_btf_id", U32),
        ("_pad", U32),
    )


def sized(structure: Any) -> Any:
    """A zeroed option structure that carries its own size, as libbpf wants it."""
    return structure(sz=c.sizeof(structure))


def _fail_negative(result: int, function: Any, _arguments: Any) -> int:
    if result < 0:
        # bpf_prog_query and others of libbpf 1.x return -errno; older ones set errno and return -1
        raise OSError(-result, os.strerror(-result), function.__name__)
    return result


def _fail_null(result: int | None, function: Any, _arguments: Any) -> int:
    if not result:
        errno = c.get_errno()
        raise OSError(errno, os.strerror(errno), function.__name__)
    return result


class MissingLibrary(Exception):
    """libbpf 1.x is not on this host."""


@functools.cache
def library() -> Any:
    """
    libbpf, prototypes set and its printing to stderr silenced: what it would print is in the
    errors.

    Raises:
        MissingLibrary: If libbpf 1.x is not installed or lacks one of the functions.
    """
    try:
        lib = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as err:
        raise MissingLibrary(str(err)) from err
    for name, (failure, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(lib, name)
        except AttributeError as err:
            raise MissingLibrary(f"libbpf.so.1 lacks {name}") from err
        function.__name__ = name
        function.argtypes = arguments
        function.restype = _RESULTS.get(name, Pointer if failure == _POINTER else Int)
        if failure == _INT:
            function.errcheck = _fail_negative
        elif failure == _POINTER:
            function.errcheck = _fail_null
    lib.libbpf_set_print(None)
    return lib


@functools.cache
def _libc() -> Any:
    lib = c.CDLL(None, use_errno=True)
    lib.syscall.restype = c.c_long
    lib.setns.argtypes = [Int, Int]
    lib.mount.argtypes = [Text, Text, Text, c.c_ulong, Text]
    lib.renameat2.argtypes = [Int, Text, Int, Text, c.c_uint]
    return lib


def command(number: int, attr: Any, name: str) -> int:
    """
    One bpf(2) command, for what libbpf 1.1 does not know.

    Args:
        number: BPF_*, enum bpf_cmd.
        attr: A structure laid out as that command's member of union bpf_attr; results are in it.
        name: For the error.

    Returns:
        What the kernel returned: a descriptor, or 0.

    Raises:
        OSError: With the kernel's errno.
    """
    syscall = _SYS_BPF.get(platform.machine())
    if syscall is None:
        raise OSError(errnos.ENOSYS, "bpf(2) has no known number on this machine")
    result = int(_libc().syscall(syscall, number, c.byref(attr), c.sizeof(attr)))
    if result < 0:
        errno = c.get_errno()
        raise OSError(errno, os.strerror(errno), name)
    return result


def packed_command(number: int, attr: bytes) -> int:
    """
    As :func:`command`, of octets: the kernel takes what is missing for zeros.

    Raises:
        OSError: With the kernel's errno; 524 is its own ENOTSUPP, which has no name here.
    """
    return command(number, c.create_string_buffer(attr, len(attr)), f"bpf({number})")


def setns(fd: int) -> None:
    """Move the calling thread to the network namespace that ``fd`` is open on. Raises OSError."""
    if _libc().setns(fd, CLONE_NEWNET) < 0:
        errno = c.get_errno()
        raise OSError(errno, os.strerror(errno), "setns")


def raise_capabilities() -> None:
    """
    Make every capability that this thread is permitted effective.

    A program that its file permits something, as ``setcap ...=p`` does, begins with none in effect.

    Raises:
        OSError: With the kernel's errno.

    Source: include/uapi/linux/capability.h, version 3.
    """
    header = (U32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Twice effective, permitted, inheritable: of capabilities 0 to 31, and of those above.
    data = (U32 * 6)()
    for call in ("capget", "capset"):
        if getattr(_libc(), call)(header, data) < 0:
            errno = c.get_errno()
            raise OSError(errno, os.strerror(errno), call)
        data[0], data[3] = data[1], data[4]


def mount(kind: str, target: str, data: str) -> None:
    """Put a file system that needs no device at a directory. Raises OSError."""
    if _libc().mount(kind.encode(), os.fsencode(target), kind.encode(), 0, data.encode()) < 0:
        errno = c.get_errno()
        raise OSError(errno, os.strerror(errno), "mount")


def rename_new(source: str, target: str) -> None:
    """
    Rename, unless there is something at ``target``: renameat2(2) with RENAME_NOREPLACE.

    Raises:
        OSError: EEXIST if there is; ENOENT if there is nothing at ``source``.
    """
    if _libc().renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), 1) < 0:
        errno = c.get_errno()
        raise OSError(errno, os.strerror(errno), "renameat2")


def info(structure: Any, fd: int) -> Any:
    """BPF_OBJ_GET_INFO_BY_FD into a new ``structure``. Raises OSError."""
    result = structure()
    length = U32(c.sizeof(structure))
    library().bpf_obj_get_info_by_fd(fd, c.byref(result), c.byref(length))
    return result


def address(buffer: bytes | bytearray) -> Any:
    """A C pointer to ``buffer``, which the caller keeps alive and unresized."""
    if isinstance(buffer, bytes):
        return c.cast(c.c_char_p(buffer), Pointer)
    return c.cast((c.c_char * len(buffer)).from_buffer(buffer), Pointer)


def room(size: int) -> Any:
    """``size`` zeroed octets for C to write; their ``raw`` is a copy as bytes."""
    return (c.c_char * size)()


def pointer_to(value: Any) -> int:
    """The address of a C value, which the caller keeps alive."""
    return c.addressof(value)


def size_of(value: Any) -> int:
    """Octets of a C value or type."""
    return c.sizeof(value)


def copy(pointer: int, size: int) -> bytes:
    """``size`` octets at ``pointer``, copied."""
    return c.string_at(pointer, size)


def u32(value: int = 0) -> Any:
    """A C uint32 to pass by reference."""
    return U32(value)


def u64(value: int = 0) -> Any:
    """A C uint64 to pass by reference."""
    return U64(value)


def ref(value: Any) -> Any:
    """A reference to a C value."""
    return c.byref(value)


def array(kind: Any, values: Any) -> Any:
    """A C array of ``values``."""
    return (kind * len(values))(*values)
