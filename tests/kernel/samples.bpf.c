/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Small programs of the tests' own, one object for all of them. */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define EXPERIMENTAL 0x88b5 /* IEEE local experimental ethertype */

enum mode { MODE_OFF, MODE_ON = 7 };

struct limits {
	__u16 low;
	__u16 _pad;
	__s32 high;
	__u8 mac[6];
	__u8 _end[2];
};

struct settings_seen {
	__s64 delta;
	__u64 wide;
	struct limits limits;
	__u16 ports[4];
	__u32 mode;
	__u32 on;
	char label[8];
};

const volatile __s32 delta = -1;
const volatile __u64 wide = 5;
const volatile __u16 ports[4] = { 1, 2, 3, 4 };
const volatile struct limits limits = { .low = 9, .high = -9 };
const volatile char label[8] = "abc";
const volatile enum mode mode = MODE_OFF;
const volatile _Bool on = 0;
const volatile double ratio = 0.5;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

/* Decimal digits of the programs that ran, in their order. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} trail SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings_seen);
} settings_seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u32);
} jumps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} a_map_with_a_name_of_37_characters_xy SEC(".maps");

static __always_inline void count(__u32 slot)
{
	__u64 *value = bpf_map_lookup_elem(&hits, &slot);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline void step(__u64 digit)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&trail, &zero);

	if (value)
		*value = *value * 10 + digit;
}

/* TCX and clsact */

SEC("tc") int first(struct __sk_buff *skb)
{
	(void)skb;
	step(1);
	return -1;
}

SEC("tc") int second(struct __sk_buff *skb)
{
	(void)skb;
	step(2);
	return -1;
}

SEC("tc") int third(struct __sk_buff *skb)
{
	(void)skb;
	step(3);
	return -1;
}

SEC("tc") int shot(struct __sk_buff *skb)
{
	(void)skb;
	count(0);
	return 2; /* TC_ACT_SHOT */
}

SEC("tc") int rewrite(struct __sk_buff *skb)
{
	__u8 marker = 0xee;

	skb->mark += 1;
	skb->cb[1] = skb->cb[0] * 2;
	bpf_skb_store_bytes(skb, 0, &marker, sizeof(marker), 0);
	bpf_skb_change_tail(skb, skb->len + 6, 0);
	return 3;
}

SEC("tc") int read_settings(struct __sk_buff *skb)
{
	struct settings_seen *seen;
	__u32 zero = 0;

	(void)skb;
	seen = bpf_map_lookup_elem(&settings_seen, &zero);
	if (!seen)
		return 1;
	seen->delta = delta;
	seen->wide = wide;
	seen->limits.low = limits.low;
	seen->limits.high = limits.high;
	for (int i = 0; i < 6; i++)
		seen->limits.mac[i] = limits.mac[i];
	for (int i = 0; i < 4; i++)
		seen->ports[i] = ports[i];
	for (int i = 0; i < 8; i++)
		seen->label[i] = label[i];
	seen->mode = mode;
	seen->on = on;
	return 0;
}

SEC("tc") int a_program_with_a_name_of_41_characters_xy(struct __sk_buff *skb)
{
	__u32 zero = 0;

	(void)skb;
	return bpf_map_lookup_elem(&a_map_with_a_name_of_37_characters_xy, &zero) ? 4 : 5;
}

/* Tail calls */

SEC("tc") int jump(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &jumps, skb->cb[0]);
	return 100;
}

SEC("tc") int landed(struct __sk_buff *skb)
{
	return 200 + skb->cb[0];
}

/* XDP */

static __always_inline int ethertype(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	return data + 14 > end ? 0 : data[12] << 8 | data[13];
}

SEC("xdp") int drop_experimental(struct xdp_md *ctx)
{
	if (ethertype(ctx) == EXPERIMENTAL) {
		count(0);
		return XDP_DROP;
	}
	count(1);
	return XDP_PASS;
}

SEC("xdp") int pass_all(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

SEC("xdp") int prepend(struct xdp_md *ctx)
{
	unsigned char *data, *end;

	if (ctx->data - ctx->data_meta != 4 || bpf_xdp_adjust_head(ctx, -4))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 4 > end)
		return XDP_ABORTED;
	data[0] = data[1] = data[2] = data[3] = 0xab;
	return XDP_TX;
}

/* Sockets */

SEC("socket") int keep_experimental(struct __sk_buff *skb)
{
	if (skb->protocol != bpf_htons(EXPERIMENTAL)) {
		count(1);
		return 0;
	}
	count(0);
	return 20;
}

SEC("socket") int by_first_octet(struct __sk_buff *skb)
{
	__u8 octet = 0;

	/* At a reuseport hook the data begin with the UDP payload. */
	bpf_skb_load_bytes(skb, 0, &octet, sizeof(octet));
	return octet;
}

SEC("sk_reuseport") int select_by_first_octet(struct sk_reuseport_md *ctx)
{
	unsigned char *data = ctx->data, *end = ctx->data_end;
	__u32 slot;

	if (data + 9 > end)
		return SK_DROP;
	slot = data[8]; /* after the UDP header */
	return bpf_sk_select_reuseport(ctx, &listeners, &slot, 0) ? SK_DROP : SK_PASS;
}

/* Of a type that has no test run. */

SEC("kprobe/none") int probe(void *ctx)
{
	(void)ctx;
	return 0;
}

/* More than 32 instructions, so that its log has more than 128 octets. */
SEC("tc") int wordy(struct __sk_buff *skb)
{
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 5; i++)
		sum = (sum ^ skb->cb[i]) * 31 + skb->mark + skb->len + i;
	return sum;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
