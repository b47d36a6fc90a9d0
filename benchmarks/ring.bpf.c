/* Fills a ring buffer, for bench_ring.py: the same lines through libbpf and through BCC. */
#ifndef BCC_SEC /* BCC brings its own. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} events SEC(".maps");

char LICENSE[] SEC("license") = "GPL";

#define SECTION SEC("socket")
#else
BPF_RINGBUF_OUTPUT(events, 4096);

#define SECTION
#endif

struct event {
	unsigned long long number;
	char fill[56]; /* BCC reads arrays of types that are one word. */
};

/* A thousand events for each datagram, which is dropped. */
SECTION int fill(struct __sk_buff *skb)
{
	struct event event = {};

	for (int number = 0; number < 1000; number++) {
		event.number = number;
#ifdef BCC_SEC /* It rewrites such calls, but not in macros. */
		events.ringbuf_output(&event, sizeof(event), 0);
#else
		bpf_ringbuf_output(&events, &event, sizeof(event), 0);
#endif
	}
	return 0;
}
