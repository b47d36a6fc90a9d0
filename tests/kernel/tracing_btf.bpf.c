/* A program that names its tracepoint by BTF, for tests/kernel/test_tracing.py. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

const volatile __u32 pid;
const volatile __u64 pid_device, pid_inode, system_call;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

SEC("tp_btf/sys_enter") int on_btf_sys_enter(__u64 *arguments)
{
	struct bpf_pidns_info who = {};
	__u32 slot = 0;
	__u64 *value = bpf_map_lookup_elem(&counts, &slot);

	if (value && arguments[1] == system_call &&
	    !bpf_get_ns_current_pid_tgid(pid_device, pid_inode, &who, sizeof(who)) &&
	    who.tgid == pid)
		__sync_fetch_and_add(value, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
