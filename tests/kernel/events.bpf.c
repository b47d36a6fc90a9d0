/* Programs that write events, for tests/kernel/test_{perf,ringbuf}.py and benchmarks/bench_ring.py.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct event {
	__u32 number, cpu, length;
	__u32 fill[61];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

enum { NEXT, REFUSED, SLOTS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* Of a record; how many octets more each of the next ones has, up to how many; each n-th is
 * discarded. */
const volatile __u32 length = 64, growth, longest = 64, discard_every;

static __always_inline __u64 *slot(__u32 number)
{
	return bpf_map_lookup_elem(&counts, &number);
}

static __always_inline __u32 size_of(__u32 number)
{
	__u32 size = growth ? length + number * growth % (longest - length + 1) : length;

	/* The verifier wants the bound on the very register that is passed. */
	asm volatile("%0 &= 255" : "+r"(size));
	return size;
}

SEC("tc") int send_perf(struct __sk_buff *skb)
{
	__u64 *next = slot(NEXT), *refused = slot(REFUSED);
	struct event event = {};

	if (!next || !refused)
		return 0;
	event.number = (*next)++;
	event.cpu = bpf_get_smp_processor_id();
	event.length = size_of(event.number);
	if (bpf_perf_event_output(skb, &events, BPF_F_CURRENT_CPU, &event, event.length))
		++*refused;
	return 0;
}

SEC("tc") int send_ring(struct __sk_buff *skb)
{
	__u64 *next = slot(NEXT), *refused = slot(REFUSED);
	struct event event = {};

	if (!next || !refused)
		return 0;
	event.number = (*next)++;
	event.cpu = bpf_get_smp_processor_id();
	event.length = size_of(event.number);
	if (discard_every && event.number % discard_every == 0) {
		struct event *reserved = bpf_ringbuf_reserve(&ring, 128, 0);

		if (reserved)
			bpf_ringbuf_discard(reserved, 0);
		return 0;
	}
	if (bpf_ringbuf_output(&ring, &event, event.length, 0))
		++*refused;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
