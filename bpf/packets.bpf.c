//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * packets: what went wrong with packets, counted by what it was and between
 * whom: dropped for a reason that means something, sent again, refused by a
 * reset. Most packets that the kernel frees with a reason were merely left over
 * when a socket was closed: those cost a load and a compare.
 */
#include "kernel.h"

#define REASONS 256

/* What happened; from RETRANSMIT on it is no drop. The reasons of drops are
 * numbered by user space, since the kernel's numbers differ. */
enum { RETRANSMIT = 128, SYN_RETRANSMIT, RESET_SENT, RESET_RECEIVED, BUFFER_LIMIT };

struct between {
	__u8 from[16], to[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u16 from_port, to_port; /* the larger of the two is left out: 0 */
	__u8 what;
	__u8 protocol;
	__u16 unused;
};

struct happened {
	__u64 count;
	__u64 first, last;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 512);
	__type(key, struct between);
	__type(value, struct happened);
} packets SEC(".maps");

/* How many packets were sent again, by any socket. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} again SEC(".maps");

/* What each of the kernel's reasons is to us; 0: nothing. */
volatile const __u8 meaning[REASONS] = {};

struct iphdr {
	__u8 version_ihl, tos;
	__be16 tot_len, id, frag_off;
	__u8 ttl, protocol;
	__sum16 check;
	__be32 saddr, daddr;
};

struct ipv6hdr {
	__u8 version, flow[3];
	__be16 payload_len;
	__u8 nexthdr, hop_limit;
	__u8 saddr[16], daddr[16];
};

static __always_inline void count(struct between *b)
{
	struct happened *h = bpf_map_lookup_elem(&packets, b);
	__u64 now = bpf_ktime_get_ns();

	if (h) {
		__sync_fetch_and_add(&h->count, 1);
		h->last = now;
		return;
	}
	struct happened fresh = { .count = 1, .first = now, .last = now };
	if (bpf_map_update_elem(&packets, b, &fresh, BPF_NOEXIST)) {
		h = bpf_map_lookup_elem(&packets, b);
		if (h)
			__sync_fetch_and_add(&h->count, 1);
	}
}

static __always_inline void v4(__u8 *to, __be32 address)
{
	to[10] = to[11] = 0xff;
	__builtin_memcpy(to + 12, &address, 4);
}

/* The client's port is another with each connection: only the service's counts. */
static __always_inline void ports(struct between *b, __u16 from, __u16 to)
{
	if (from > to)
		b->to_port = to;
	else
		b->from_port = from;
	if (from == to)
		b->to_port = to;
}

static __always_inline bool addresses(struct between *b, struct sk_buff *skb)
{
	unsigned char *head = skb->head;
	__u16 at = skb->network_header;
	__u16 port[2] = {};
	__u8 version = 0;
	int length;

	if (at == 0xffff || bpf_probe_read_kernel(&version, 1, head + at))
		return false;
	if (version >> 4 == 4) {
		struct iphdr ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), head + at))
			return false;
		v4(b->from, ip.saddr);
		v4(b->to, ip.daddr);
		b->protocol = ip.protocol;
		length = (ip.version_ihl & 15) * 4;
	} else if (version >> 4 == 6) {
		struct ipv6hdr ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), head + at))
			return false;
		__builtin_memcpy(b->from, ip.saddr, 16);
		__builtin_memcpy(b->to, ip.daddr, 16);
		b->protocol = ip.nexthdr;
		length = sizeof(ip);
	} else {
		return false;
	}
	if (b->protocol == 6 || b->protocol == 17) { /* TCP, UDP */
		bpf_probe_read_kernel(port, sizeof(port), head + at + length);
		ports(b, __builtin_bswap16(port[0]), __builtin_bswap16(port[1]));
	}
	return true;
}

static __always_inline void of_socket(struct between *b, struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	if (family == 10) {
		bpf_probe_read_kernel(b->from, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_probe_read_kernel(b->to, 16, &sk->__sk_common.skc_v6_daddr);
	} else {
		v4(b->from, sk->__sk_common.skc_rcv_saddr);
		v4(b->to, sk->__sk_common.skc_daddr);
	}
	ports(b, sk->__sk_common.skc_num, __builtin_bswap16(sk->__sk_common.skc_dport));
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(dropped, struct sk_buff *skb, void *location, int reason)
{
	struct between b = {};
	__u64 r = (__u32)reason;

	/* Reasons of subsystems (mac80211, openvswitch) have high bits. */
	if (r >= REASONS)
		return 0;
	asm volatile("%0 &= 255" : "+r"(r)); /* the verifier does not see it otherwise */
	b.what = meaning[r];
	if (!b.what)
		return 0;
	if (addresses(&b, skb))
		count(&b);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(sent_again, struct sock *sk, struct sk_buff *skb)
{
	struct between b = {};
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&again, &zero);

	if (n)
		__sync_fetch_and_add(n, 1);
	b.what = sk->__sk_common.skc_state == 2 ? SYN_RETRANSMIT : RETRANSMIT;
	b.protocol = 6;
	of_socket(&b, sk);
	count(&b);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(reset_sent, struct sock *sk, struct sk_buff *skb)
{
	struct between b = {}, back = {};

	if (!skb || !addresses(&b, skb))
		return 0;
	/* It answers the packet: the other way round. */
	back.what = RESET_SENT;
	back.protocol = b.protocol;
	__builtin_memcpy(back.from, b.to, 16);
	__builtin_memcpy(back.to, b.from, 16);
	back.from_port = b.to_port;
	back.to_port = b.from_port;
	count(&back);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(reset_received, struct sock *sk)
{
	struct between b = {}, back = {};

	of_socket(&b, sk);
	back.what = RESET_RECEIVED;
	back.protocol = 6;
	__builtin_memcpy(back.from, b.to, 16);
	__builtin_memcpy(back.to, b.from, 16);
	back.from_port = b.to_port;
	back.to_port = b.from_port;
	count(&back);
	return 0;
}

SEC("tp_btf/sock_exceed_buf_limit")
int BPF_PROG(buffer_limit, struct sock *sk)
{
	struct between b = {};

	b.what = BUFFER_LIMIT;
	if (sk->__sk_common.skc_family == 2 || sk->__sk_common.skc_family == 10)
		of_socket(&b, sk);
	count(&b);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
