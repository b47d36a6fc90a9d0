/* Programs that count what they are attached to, for tests/kernel/test_tracing.py. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>

#include <bpf/bpf_helpers.h>

/* The namespace of PIDs, the process in it, the system call and the port that count. */
const volatile __u64 pid_device, pid_inode;
const volatile __u32 pid, port;
const volatile __u64 system_call;
const volatile __u64 first_address, last_address;

enum { HITS, COOKIES, INNER, SLOTS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline int count(__u32 slot, __u64 by)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &slot);

	if (value)
		__sync_fetch_and_add(value, by);
	return 0;
}

static __always_inline int is_watched(void)
{
	struct bpf_pidns_info who = {};

	return !bpf_get_ns_current_pid_tgid(pid_device, pid_inode, &who, sizeof(who)) &&
	       who.tgid == pid;
}

SEC("kprobe") int on_probe(void *ctx)
{
	return count(HITS, 1);
}

SEC("kprobe") int on_probe_of_pid(void *ctx)
{
	return is_watched() ? count(HITS, 1) : 0;
}

SEC("kprobe") int on_probe_with_cookie(void *ctx)
{
	count(HITS, 1);
	return count(COOKIES, bpf_get_attach_cookie(ctx));
}

/* events/sock/inet_sock_set_state/format. */
struct inet_sock_set_state {
	__u64 common, skaddr;
	int oldstate, newstate;
	__u16 sport, dport;
};

/* A function calls another one: a return from it comes after that call, its own call before. */
SEC("kprobe") int on_inner(void *ctx)
{
	return count(INNER, 1);
}

SEC("kprobe") int on_outer(void *ctx)
{
	__u32 slot = INNER;
	__u64 *calls = bpf_map_lookup_elem(&counts, &slot);

	if (calls && *calls == 1)
		count(HITS, 1);
	if (calls)
		*calls = 0;
	return 0;
}

SEC("tracepoint") int on_state(struct inet_sock_set_state *event)
{
	const int established = 1;

	if (event->newstate == established && (event->sport == port || event->dport == port))
		count(HITS, 1);
	return 0;
}

SEC("raw_tracepoint") int on_raw_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	return ctx->args[1] == system_call && is_watched() ? count(HITS, 1) : 0;
}

SEC("perf_event") int on_fault(struct bpf_perf_event_data *ctx)
{
	return ctx->addr >= first_address && ctx->addr <= last_address ? count(HITS, 1) : 0;
}

SEC("perf_event") int on_clock(struct bpf_perf_event_data *ctx)
{
	return count(HITS, 1);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
