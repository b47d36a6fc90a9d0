/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi/socket_event.h"

/* struct socket_event. What does not fit is lost, and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 19);
} socket_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} socket_lost SEC(".maps");

static __always_inline int tell(struct socket_event *event)
{
	__u32 slot = 0;
	__u64 *lost;

	if (bpf_ringbuf_output(&socket_ring, event, sizeof(*event), 0)) {
		lost = bpf_map_lookup_elem(&socket_lost, &slot);
		if (lost)
			__sync_fetch_and_add(lost, 1);
	}
	return 1; /* go on */
}

/* In the process that calls socket(2). Sockets that accept(2) gives are not made here. */
SEC("cgroup/sock_create")
int socket_create(struct bpf_sock *sk)
{
	struct socket_event event = {};
	__u64 current = bpf_get_current_pid_tgid();

	event.cookie = bpf_get_socket_cookie(sk);
	event.cgroup_id = bpf_get_current_cgroup_id();
	event.mono_ns = bpf_ktime_get_ns();
	event.pid = current >> 32;
	event.tid = (__u32)current;
	bpf_get_current_comm(event.command, sizeof(event.command));
	return tell(&event);
}

SEC("cgroup/sock_release")
int socket_release(struct bpf_sock *sk)
{
	struct socket_event event = {};

	event.cookie = bpf_get_socket_cookie(sk);
	event.mono_ns = bpf_ktime_get_ns();
	event.released = 1;
	return tell(&event);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
