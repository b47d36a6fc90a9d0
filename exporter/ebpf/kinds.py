"""
The kernel's numbers for types, as words. A number that is not known here is said to be unknown.

Source: include/uapi/linux/bpf.h of Linux 6.18: enum bpf_prog_type, bpf_attach_type, bpf_link_type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Direction = Literal["ingress", "egress"]

# In the order of their numbers.
_PROGRAM_TYPES = """
unspecified socket_filter kprobe sched_cls sched_act tracepoint xdp perf_event
cgroup_skb cgroup_sock lwt_in lwt_out lwt_xmit sock_ops sk_skb cgroup_device sk_msg
raw_tracepoint cgroup_sock_addr lwt_seg6local lirc_mode2 sk_reuseport flow_dissector
cgroup_sysctl raw_tracepoint_writable cgroup_sockopt tracing struct_ops ext lsm sk_lookup
syscall netfilter
"""
_ATTACH_TYPES = """
cgroup_inet_ingress cgroup_inet_egress cgroup_inet_sock_create cgroup_sock_ops
sk_skb_stream_parser sk_skb_stream_verdict cgroup_device sk_msg_verdict cgroup_inet4_bind
cgroup_inet6_bind cgroup_inet4_connect cgroup_inet6_connect cgroup_inet4_post_bind
cgroup_inet6_post_bind cgroup_udp4_sendmsg cgroup_udp6_sendmsg lirc_mode2 flow_dissector
cgroup_sysctl cgroup_udp4_recvmsg cgroup_udp6_recvmsg cgroup_getsockopt cgroup_setsockopt
trace_raw_tp trace_fentry trace_fexit modify_return lsm_mac trace_iter
cgroup_inet4_getpeername cgroup_inet6_getpeername cgroup_inet4_getsockname
cgroup_inet6_getsockname xdp_devmap cgroup_inet_sock_release xdp_cpumap sk_lookup xdp
sk_skb_verdict sk_reuseport_select sk_reuseport_select_or_migrate perf_event
trace_kprobe_multi lsm_cgroup struct_ops netfilter tcx_ingress tcx_egress
trace_uprobe_multi cgroup_unix_connect cgroup_unix_sendmsg cgroup_unix_recvmsg
cgroup_unix_getpeername cgroup_unix_getsockname netkit_primary netkit_peer
trace_kprobe_session trace_uprobe_session
"""
_LINK_TYPES = """
unspecified raw_tracepoint tracing cgroup iter netns xdp perf_event kprobe_multi
struct_ops netfilter tcx uprobe_multi netkit sockmap
"""

#: BPF_PROG_TYPE_*.
PROGRAM_TYPES = dict(enumerate(_PROGRAM_TYPES.split()))

#: BPF_* attach types.
ATTACH_TYPES = dict(enumerate(_ATTACH_TYPES.split()))

#: BPF_LINK_TYPE_*.
LINK_TYPES = dict(enumerate(_LINK_TYPES.split()))


def program_type(number: int) -> str:
    """The name of a BPF_PROG_TYPE_*, or ``unknown (N)``."""
    return _name(PROGRAM_TYPES, number)


def attach_type(number: int) -> str:
    """The name of an attach type, or ``unknown (N)``."""
    return _name(ATTACH_TYPES, number)


def link_type(number: int) -> str:
    """The name of a BPF_LINK_TYPE_*, or ``unknown (N)``."""
    return _name(LINK_TYPES, number)


def number_of(names: Mapping[int, str], name: str) -> int:
    """
    The number of a name.

    Args:
        names: :data:`PROGRAM_TYPES` or another of these tables.
        name: One of its values.

    Raises:
        KeyError: If it is not.
    """
    for number, known in names.items():
        if known == name:
            return number
    raise KeyError(name)


def _name(names: Mapping[int, str], number: int) -> str:
    return names.get(number, f"unknown ({number})")
