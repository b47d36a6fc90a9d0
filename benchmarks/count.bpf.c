/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets by ethertype, for both loaders: libbpf loads it compiled, BCC (-DBCC) compiles it. */
#ifdef BCC
#include <uapi/linux/bpf.h>
#define SEC(name)
BPF_PERCPU_HASH(packet_count, u32, u64, 1024);
#else
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} packet_count SEC(".maps");
#endif

SEC("tc")
int count(struct __sk_buff *skb)
{
	__u32 key = skb->protocol;
	__u64 one = 1, *value;

#ifdef BCC
	value = packet_count.lookup(&key);
#else
	value = bpf_map_lookup_elem(&packet_count, &key);
#endif
	if (value)
		*value += 1;
	else
#ifdef BCC
		packet_count.update(&key, &one);
#else
		bpf_map_update_elem(&packet_count, &key, &one, BPF_ANY);
#endif
	return -1;
}

#ifndef BCC
char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
